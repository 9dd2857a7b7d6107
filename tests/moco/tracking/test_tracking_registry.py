"""The registered encoder: loading it, no second version, and who becomes champion."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import mlflow
import numpy as np
import pytest
import torch
from mlflow.types import DataType
from pydantic import TypeAdapter
from small_material import ROOT, write_gray_numbers

from moco import tracking
from moco.config import load_params
from moco.encoders.frozen import EncoderSpec, load_encoder, save_encoder
from moco.encoders.init import FETCHED, AnyInit
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.features.extract import embed_images
from moco.images.index import open_split
from moco.runs.folder import training_hash
from moco.tracking.champion import CHAMPION, PREVIOUS, champion_folder
from moco.tracking.registry import MODEL_NAME
from moco.tracking.serving import COLUMN
from pipelines.start import start
from pipelines.versions import Version


def encoder_folder(folder, seed):
    torch.manual_seed(seed)
    backbone = ResNet("thin", "small")
    spec = EncoderSpec(
        network_of("thin", "small"), 16, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, f"training{seed}"
    )
    save_encoder(folder, backbone, spec)
    return folder


@pytest.fixture(autouse=True)
def pyfunc_alone(monkeypatch):
    """The other flavors take seconds, and a file of their own tests them."""
    monkeypatch.setattr("moco.tracking.flavors.PROGRAMS", {})


def files(images):
    """As a program that serves images has them: what is in each file."""
    return [{COLUMN: cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()} for image in images]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)


@pytest.fixture
def register(tracked, tmp_path, images):
    """Log and register an encoder of the given seed, as the stages do; gives its version."""

    def call(seed, validation="val", **metrics):
        folder = encoder_folder(tmp_path / f"encoder{seed}", seed)
        with tracking.stage_run("pretrain", {}) as run:
            uri = tracking.log_encoder(run, folder, images)
        return tracking.register_encoder(uri, f"training{seed}", metrics, validation)

    return call


def champion():
    return str(mlflow.MlflowClient().get_model_version_by_alias(MODEL_NAME, CHAMPION).version)


def unused(folder):
    raise AssertionError("the champion has a figure on this data")


def test_the_champion_is_downloaded_as_an_encoder_folder(register, tmp_path, tracked):
    with (
        pytest.raises(MocoError, match=r"champion: no such encoder in the registry of .*name a folder"),
        champion_folder(),
    ):
        pass
    tracking.promote(register(1, knn=0.5), "knn", 0.5, 1000, "val", unused)
    with champion_folder() as folder:
        assert load_encoder(folder).spec == load_encoder(tmp_path / "encoder1").spec
        own = (tmp_path / "encoder1/encoder.safetensors").read_bytes()
        assert (folder / "encoder.safetensors").read_bytes() == own
    assert not folder.exists()


def test_embeddings_from_the_champion_are_those_of_the_encoder_folder(register, tmp_path, images):
    tracking.promote(register(1, knn=0.5), "knn", 0.5, 1000, "val", unused)
    features = mlflow.pyfunc.load_model("models:/moco-encoder@champion").predict(files(images))
    expected = embed_images(load_encoder(tmp_path / "encoder1"), list(images))
    assert features.dtype == np.float32
    assert features.shape == (5, 256)
    np.testing.assert_array_equal(features, expected)


def test_an_embedding_does_not_depend_on_the_other_images(register, images):
    register(1)
    model = mlflow.pyfunc.load_model("models:/moco-encoder/1")
    together = model.predict(files(images))
    alone = np.concatenate([model.predict(files(images[i : i + 1])) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_the_model_says_what_it_takes_and_refuses_what_is_no_image(register, images):
    register(1)
    model = mlflow.pyfunc.load_model("models:/moco-encoder/1")
    (takes,) = model.metadata.signature.inputs.inputs
    (gives,) = model.metadata.signature.outputs.inputs
    assert (takes.name, takes.type) == ("image", DataType.binary)
    assert (gives.type, gives.shape) == (np.dtype(np.float32), (-1, 256))
    with pytest.raises(MocoError, match=r"row 1: no readable image .*give a file's bytes"):
        model.predict([*files(images[:1]), {"image": b"no image"}])
    np.testing.assert_array_equal(model.get_raw_model().embed(list(images)), model.predict(files(images)))
    assert model.predict(model.input_example).shape == (1, 256)


LOAD_ELSEWHERE = """
import sys
root = {root!r}
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if path not in ("", root) and "__editable__" not in path]
import mlflow, numpy as np
try:
    import moco
    raise SystemExit("the project is still installed: the test shows nothing")
except ModuleNotFoundError:
    pass
encoder = mlflow.pyfunc.load_model("models:/moco-encoder/1")
features = encoder.get_raw_model().embed(np.load({images!r}))
import moco
assert root not in moco.__file__, moco.__file__
np.save({features!r}, features)
"""


def test_the_model_loads_where_the_project_is_not_installed(register, tmp_path, images):
    register(1)
    np.save(tmp_path / "images.npy", images)
    root = os.path.dirname(os.path.dirname(tracking.__path__[0]))  # noqa: PTH120 - compared with sys.path's strings
    code = LOAD_ELSEWHERE.format(root=root, images=f"{tmp_path}/images.npy", features=f"{tmp_path}/features.npy")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = embed_images(load_encoder(tmp_path / "encoder1"), list(images))
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_logged_in_the_experiment_of_its_run_and_once_a_run(tracked, tmp_path, images):
    client, experiment = tracked
    folder = encoder_folder(tmp_path / "encoder", 1)
    with tracking.stage_run("pretrain", {}) as run:
        uris = {tracking.log_encoder(run, folder, images) for _ in range(2)}
    assert len(uris) == 1
    (model,) = client.search_logged_models([experiment])
    assert model.source_run_id == run.id
    assert client.get_run(run.id).outputs.model_outputs[0].model_id == model.model_id


def test_a_retry_makes_no_second_version(register):
    assert register(1, knn=0.5) == register(1, knn=0.5) == "1"
    assert register(2, knn=0.5) == "2"


def test_other_weights_under_the_same_settings_are_another_version(tracked, tmp_path, images):
    versions = []
    for seed in (1, 2):
        with tracking.stage_run("pretrain", {}) as run:
            uri = tracking.log_encoder(run, encoder_folder(tmp_path / f"encoder{seed}", seed), images)
        versions.append(tracking.register_encoder(uri, "the same settings", {}, "val"))
    assert versions == ["1", "2"]


@pytest.mark.parametrize(("value", "winner"), [(0.55, "2"), (0.51, "1"), (0.5, "1"), (0.49, "1"), (float("nan"), "1")])
def test_the_alias_moves_only_to_a_version_that_is_better_beyond_chance(register, value, winner):
    assert "none before" in tracking.promote(register(1, knn=0.5), "knn", 0.5, 1000, "val", unused)
    line = tracking.promote(register(2, knn=value), "knn", value, 1000, "val", unused)
    assert champion() == winner
    assert "version 2" in line
    assert "\n" not in line
    model = mlflow.MlflowClient().get_registered_model(MODEL_NAME)
    assert str(model.aliases.get(PREVIOUS)) == ("1" if winner == "2" else "None")
    tags = [mlflow.MlflowClient().get_model_version(MODEL_NAME, version).tags["promotion"] for version in "12"]
    assert tags == ["champion: is now version 1, there was none before", line]


def test_a_version_is_described_in_markdown_that_names_it(register):
    tracking.describe_version(register(1), lambda uri: f"load `{uri}`")
    assert mlflow.MlflowClient().get_model_version(MODEL_NAME, "1").description == "load `models:/moco-encoder/1`"


@pytest.mark.parametrize(("champions_figure", "winner"), [(0.9, "1"), (0.3, "2")])
def test_a_champion_of_other_data_is_first_evaluated_on_the_new_data(register, tmp_path, champions_figure, winner):
    tracking.promote(register(1, validation="old data", knn=0.5), "knn", 0.5, 1000, "old data", unused)
    seen = []

    def reevaluate(folder):
        seen.append(load_encoder(folder).spec.training_hash)
        return champions_figure

    version = register(2, validation="new data", knn=0.6)
    tracking.promote(version, "knn", 0.6, 1000, "new data", reevaluate)
    assert champion() == winner
    assert seen == ["training1"]
    tracking.promote(version, "knn", 0.6, 1000, "new data", unused)  # a retry has the figure already


def test_a_champion_that_cannot_be_evaluated_stays(register, capsys):
    tracking.promote(register(1, validation="old", knn=0.5), "knn", 0.5, 1000, "old", unused)

    def broken(folder):
        raise ValueError("no labels in common")

    line = tracking.promote(register(2, validation="new", knn=0.9), "knn", 0.9, 1000, "new", broken)
    assert champion() == "1"
    assert line == "champion: stays version 1, it could not be evaluated on the new data (no labels in common)"


def test_without_labels_the_first_version_is_champion_and_the_second_is_not(register):
    assert "none before" in tracking.promote(register(1), "knn", None, 1000, "val", unused)
    assert "version 2 has no knn" in tracking.promote(register(2), "knn", None, 1000, "val", unused)
    assert champion() == "1"


def test_a_collapsed_version_is_never_champion(register):
    flaw = "its features have collapsed (effective rank 1.0)"
    line = tracking.promote(register(1, knn=0.9), "knn", 0.9, 1000, "val", unused, flaw)
    assert line == f"champion: there is none, version 1 is left out: {flaw}"
    tracking.promote(register(2, knn=0.5), "knn", 0.5, 1000, "val", unused)
    line = tracking.promote("1", "knn", 0.9, 1000, "val", unused, flaw)
    assert line.startswith("champion: stays version 2")
    assert champion() == "2"


def test_a_retry_of_the_champion_changes_nothing(register):
    version = register(1, knn=0.5)
    tracking.promote(version, "knn", 0.5, 1000, "val", unused)
    assert "already" in tracking.promote(version, "knn", 0.5, 1000, "val", unused)


def test_switched_off_nothing_is_logged_or_promoted(tmp_path, monkeypatch, images):
    monkeypatch.setenv("MOCO_TRACKING", "off")
    with tracking.stage_run("pretrain", {}) as run:
        assert tracking.log_encoder(run, tmp_path, images) is None
    assert tracking.register_encoder(None, "hash", {}, "val") is None
    assert "nothing is registered" in tracking.promote(None, "knn", 0.5, 1000, "val", unused)


@pytest.mark.slow
def test_the_registry_of_a_server_serves_as_well(server, tmp_path, images):
    folder = encoder_folder(tmp_path / "encoder", 1)
    with tracking.stage_run("pretrain", {}) as run:
        uri = tracking.log_encoder(run, folder, images)
    version = tracking.register_encoder(uri, "training1", {"knn": 0.5}, "val")
    tracking.promote(version, "knn", 0.5, 1000, "val", unused)
    features = mlflow.pyfunc.load_model("models:/moco-encoder@champion").predict(files(images))
    np.testing.assert_array_equal(features, embed_images(load_encoder(folder), list(images)))
    server.kill()
    assert tracking.register_encoder(uri, "training1", {"knn": 0.5}, "val") is None
    assert "not decided" in tracking.promote(version, "knn", 0.5, 1000, "val", unused)


def params(**init):
    pretrain = load_params(ROOT / "params.yaml").pretrain.model_copy(
        update={"init": TypeAdapter(AnyInit).validate_python(init)}
    )
    return load_params(ROOT / "params.yaml").model_copy(update={"pretrain": pretrain})


def test_start_fetches_the_champion_or_another_model_for_the_next_run(register, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start(params(kind="champion"))
    assert "there is no champion yet" in capsys.readouterr().out
    assert not FETCHED.exists()
    tracking.promote(register(1, knn=0.5), "knn", 0.5, 1000, "val", unused)
    register(2, knn=0.4)
    for init, seed, version in (
        ({"kind": "champion"}, 1, "1"),
        ({"kind": "model", "uri": f"models:/{MODEL_NAME}/2"}, 2, "2"),
    ):
        start(params(**init))
        expected = load_encoder(tmp_path / f"encoder{seed}")
        fetched = load_encoder(FETCHED)
        assert fetched.spec == expected.spec
        assert torch.equal(fetched.backbone.conv1.weight, expected.backbone.conv1.weight)
        assert json.loads((FETCHED / "origin.json").read_text())["version"] == version
        assert f"version {version} is in data/start/model" in capsys.readouterr().out
        assert FETCHED.stat().st_mode & 0o055 == 0o055  # for everybody
    with pytest.raises(MocoError, match=r"models:/moco-encoder/9: the registry has no such model"):
        start(params(kind="model", uri=f"models:/{MODEL_NAME}/9"))
    assert load_encoder(FETCHED).spec.training_hash == "training2"  # stays as it was
    start(params(kind="random"))
    assert "nothing to fetch" in capsys.readouterr().out
    monkeypatch.setenv("MOCO_TRACKING", "off")
    with pytest.raises(MocoError, match="tracking is off"):
        start(params(kind="champion"))


def test_a_champion_that_these_images_and_settings_made_is_not_begun_with_again(
    register, tmp_path, monkeypatch, capsys
):
    """Else a night without new images would train on, and each after it."""
    monkeypatch.chdir(tmp_path)
    champion = params(kind="champion")
    tracking.promote(register(1, knn=0.5), "knn", 0.5, 1000, "val", unused)
    shards = write_gray_numbers(tmp_path / "data")
    start(champion)
    before = {path.name: path.read_bytes() for path in FETCHED.iterdir()}
    made = training_hash(champion.pretrain, open_split(shards, "train").data_hash)
    folder = encoder_folder(tmp_path / "better", 2)
    spec = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(spec | {"training_hash": made}))
    with tracking.stage_run("linear", {}) as run:
        uri = tracking.log_encoder(run, folder, [np.zeros((8, 8, 3), np.uint8)])
    tracking.promote(tracking.register_encoder(uri, made, {"knn": 0.9}, "val"), "knn", 0.9, 1000, "val", unused)
    capsys.readouterr()
    start(champion)
    assert "is what these images and settings made; data/start/model stays" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in FETCHED.iterdir()} == before
    shutil.rmtree(shards)  # other images, or none yet
    start(champion)
    assert json.loads((FETCHED / "origin.json").read_text())["training_hash"] == made


def test_start_fetches_what_a_version_began_with_though_the_champion_is_another(
    register, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tracking.promote(register(1, knn=0.5), "knn", 0.5, 1000, "val", unused)
    start(params(kind="champion"))
    before = {path.name: path.read_bytes() for path in FETCHED.iterdir()}
    origin = json.loads(before["origin.json"])
    known = {"version-1": Version("version-1", "", start=origin), "version-0": Version("version-0", "")}
    monkeypatch.setattr("pipelines.start.find", lambda folder, name: known[name])
    tracking.promote(register(2, knn=0.9), "knn", 0.9, 1000, "val", unused)
    start(params(kind="champion"))
    assert json.loads((FETCHED / "origin.json").read_text())["version"] == "2"
    start(params(kind="champion"), as_in="version-1")
    assert {path.name: path.read_bytes() for path in FETCHED.iterdir()} == before
    start(params(kind="champion"), as_in="version-0")
    assert not FETCHED.exists()
    known["version-1"] = Version("version-1", "", start=origin | {"training_hash": "another"})
    with pytest.raises(MocoError, match=r"version-1: began with models:/moco-encoder/1 \(training another\), which"):
        start(params(kind="champion"), as_in="version-1")


def test_a_versions_name_is_on_runs_and_model(register, tracked, tmp_path, monkeypatch):
    client, experiment = tracked
    parent = tracking.start_pipeline_run("brave-owl", flow_run="1")
    monkeypatch.setenv("MOCO_PIPELINE_RUN", parent)
    assert register(1) == "1"
    monkeypatch.setenv("MOCO_PIPELINE_RUN", "")
    assert register(2) == "2"  # of another run
    tracking.name_runs("version-2026-11-30", parent, tmp_path / "encoder1/encoder.safetensors")
    named = client.search_runs([experiment], "tags.version = 'version-2026-11-30'")
    assert {run.info.run_name for run in named} == {"version-2026-11-30 brave-owl", "pretrain · brave-owl"}
    assert len(named) == 2
    assert client.get_model_version_by_alias(MODEL_NAME, "version-2026-11-30").version == 1
    assert client.get_model_version(MODEL_NAME, "1").tags["version"] == "version-2026-11-30"
