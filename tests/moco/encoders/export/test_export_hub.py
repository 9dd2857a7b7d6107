"""The published folder: its card tells what the project knows of these weights, and no more."""

import json
import re

import pytest
import torch
import yaml
from small_material import ROOT

from moco.encoders.export.card import registered
from moco.encoders.export.evidence import evidence
from moco.encoders.export.run import export
from moco.encoders.export.source import read_source
from moco.encoders.frozen import save_encoder


@pytest.fixture
def project(source_of, tmp_path, monkeypatch):
    """A project whose outputs are of the encoder in outputs/pretrain/encoder."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["pretrain"] |= {"encoder": {"kind": "resnet", "name": "thin", "stem": "imagenet"}, "image_size": 32}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    source = source_of("thin", folder="outputs/pretrain/encoder")
    scores = {"linear_top1": 0.4321, "linear_top5": 0.9, "knn_top1": 0.5}
    ends = {"linear_top1_low": 0.4, "linear_top1_high": 0.46}
    for stage, metrics in {
        "fetch": {"images": 9, "train": {"images": 7, "labelled": 3}, "duplicates_of_test": 2},
        "pretrain": {"loss": 4.25, "leak": None},
        "linear": {"moco": scores | ends, "random": scores, "pixels": dict.fromkeys(scores)},
    }.items():
        (tmp_path / f"outputs/{stage}").mkdir(exist_ok=True)
        (tmp_path / f"outputs/{stage}/metrics.json").write_text(json.dumps(metrics))
    return source


def test_the_three_lines_of_the_card_load_the_encoder(project, tmp_path, images, monkeypatch):
    export("hub", project, tmp_path / "hub")
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "encoder.json",
        "encoder.safetensors",
    ]
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "hub/README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(tmp_path / "hub")
    names = {"images": images}
    exec(code, names)
    assert torch.equal(names["features"], project.encoder.embed(images))


def test_the_card_tells_data_recipe_figures_and_limits(project, tmp_path):
    (_, said) = export("hub", project, tmp_path / "hub")
    card = (tmp_path / "hub/README.md").read_text()
    assert "add a license" in said and "; it has" not in said
    for part in (
        "| train | 7 | 3 |",
        "again in training: 2.",
        "| this encoder | 43.2% (40.0% to 46.0%) | 90.0% | 50.0% |",
        "| loss | 4.25 |",
        "| temperature | 0.2 |",
        "Training hash: `abc`",
        "short side to 37 pixels",
        "## Limits",
    ):
        assert part in card
    assert "raw pixels" not in card  # was not measured
    assert "None" not in card and "| leak" not in card


def test_the_description_of_a_registered_version_tells_the_same_and_how_to_load_it(project, tmp_path):
    text = registered(project.spec, "models:/moco-encoder/3", evidence(project, tmp_path))
    assert 'load_model("models:/moco-encoder/3")' in text
    assert "| this encoder | 43.2% (40.0% to 46.0%)" in text and "## Limits" in text
    assert not text.startswith("---")


def test_figures_of_other_weights_and_settings_of_another_network_are_left_out(project, tmp_path):
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    values["pretrain"]["image_size"] = 64
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (_, said) = export("hub", project, tmp_path / "hub")
    assert "it has no recipe, for params.yaml is not of thin at 32 pixels" in said
    assert "Not recorded." in (card := (tmp_path / "hub/README.md").read_text()) and "43.2%" in card
    project.encoder.backbone.conv1.weight.mul_(2)
    save_encoder(tmp_path / "other", project.encoder.backbone, project.spec)
    (_, said) = export("hub", read_source(tmp_path / "other"), tmp_path / "hub")
    card = (tmp_path / "hub/README.md").read_text()
    assert "it has no figures, for outputs/pretrain/encoder has other weights" in said
    assert "43.2%" not in card and "None were measured of these weights" in card


def test_a_checkpoint_brings_its_own_recipe(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export("hub", read_source(run[0]), tmp_path / "hub")
    card = (tmp_path / "hub/README.md").read_text()
    assert "| dictionary.num_keys | 20 |" in card and "None were measured" in card
