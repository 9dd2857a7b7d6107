"""A folder of one's own through every stage, with labels and without."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_material import SMALL_PRETRAIN, rows_of, write_images, write_params

from moco.config import Params, load_params
from moco.encoders.frozen import load_encoder
from pipelines import pretrain
from pipelines.fetch import fetch
from pipelines.linear import linear
from pipelines.report import report
from pipelines.shard import shard


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Params:
    folder = tmp_path / "my photos"  # elsewhere, and with a space
    write_images(folder)
    (folder / "notes.txt").write_text("not an image")
    (folder / "class0/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    project = tmp_path / "project"
    project.mkdir()
    source = {"fetch.source": "folder", "fetch.path": str(folder), "fetch.labels": request.param}
    write_params(project, source | SMALL_PRETRAIN | {"pretrain.epochs": 2})
    (project / "machine.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(project)
    return load_params()


def run_all(params: Params) -> dict[str, dict[str, float | None]]:
    fetch(params)
    shard(params)
    pretrain.pretrain(params)
    linear(params)
    report(params)
    return json.loads(Path("outputs/linear/metrics.json").read_text())


@pytest.mark.parametrize("params", ["folders"], indirect=True)
def test_a_labelled_folder_gives_every_figure_and_names_what_was_left_out(params):
    scores = run_all(params)
    for features in ("moco", "random", "pixels"):
        figures = ("linear_top1", "linear_top5", "knn_top1")
        assert set(scores[features]) == {f"{name}{end}" for name in figures for end in ("", "_low", "_high")}
        assert all(1 / 3 < scores[features][name] <= 1 for name in figures)
        for name in figures:
            assert scores[features][f"{name}_low"] <= scores[features][name] <= scores[features][f"{name}_high"]
    assert scores["majority"]["linear_top1"] < 0.6
    left_out = [json.loads(line)["path"] for line in Path("data/shards/quarantine.jsonl").read_text().splitlines()]
    assert sorted(left_out) == ["class0/broken.jpg", "notes.txt"]
    with Path("outputs/linear/confusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads(Path("outputs/shard/metrics.json").read_text())
    assert len(rows) == metrics["test"]["images"]
    right = sum(row["actual"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(scores["moco"]["linear_top1"])
    with Path("outputs/linear/sweep.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * len(params.linear.learning_rates)


NAMES = [
    b"a\nb",
    b"a\rb",
    b"tab\there",
    b"-dash",
    b"100%25",
    b"what?#*",
    b"q'\"q",
    b"x" * 240,
    b"\xe9",
    b"=1+1",
    b" s ",
]
NAMES += ["\U0001f600".encode(), "\u202eabc\u05d0".encode(), b"<img src=x onerror=alert(1)>&amp;"]


def test_any_names_of_files_classes_and_folders_go_through_every_stage(tmp_path, monkeypatch, capsys):
    images, project = tmp_path / "im\nages %20 #?*", tmp_path / "pro\nject %41?#\u00e9"
    rng = np.random.default_rng(0)
    for number, folder in enumerate((b"cl\nass", b"\xe9", b"-d %s <b>")):
        (images / os.fsdecode(folder)).mkdir(parents=True)
        for name in NAMES:
            for copy in range(3):
                picture = Image.fromarray(rng.integers(85 * number, 85 * (number + 1), (12, 12, 3), np.uint8))
                picture.save(images / os.fsdecode(folder + b"/" + name + b"%d.png" % copy))
    project.mkdir()
    shares = {"fetch.val_fraction": 0.2, "fetch.test_fraction": 0.2}
    source = {"fetch.source": "folder", "fetch.path": str(images), "fetch.labels": "folders"}
    write_params(project, SMALL_PRETRAIN | shares | source | {"pretrain.epochs": 1})
    (project / "machine.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(project)
    run_all(load_params())
    classes = ["-d %s <b>", r"\xe9", "cl\nass"]
    assert json.loads(Path("data/shards/index.json").read_text())["classes"] == classes
    assert Path("data/shards/quarantine.jsonl").read_text() == ""
    rows = rows_of(Path("data/raw"))
    assert {row.path for row in rows} == {str(path.relative_to(images)) for path in images.rglob("*.png")}
    with Path("outputs/linear/confusion.csv").open(newline="", encoding="utf-8") as file:
        assert {row["actual"] for row in csv.DictReader(file)} == set(classes)
    assert "classes: -d %s <b>, \\xe9, cl\\nass" in capsys.readouterr().out


@pytest.mark.parametrize("params", ["none"], indirect=True)
def test_a_folder_without_labels_reaches_the_report_with_empty_scores_and_a_reason(params, capsys):
    scores = run_all(params)
    assert all(value is None for features in scores.values() for value in features.values())
    assert "linear: skipped, the training images have no labels" in capsys.readouterr().out
    assert json.loads(Path("outputs/pretrain/metrics.json").read_text())["knn_top1"] is None
    page = Path("outputs/report/report.md").read_text()
    assert "no labelled image" in page or "no labels" in page.lower()
    assert "rank" in page  # the collapse measures need no labels


@pytest.mark.parametrize("params", ["folders"], indirect=True)
def test_evaluation_is_repeatable_and_leaves_the_encoder_as_it_was(params):
    first = run_all(params)
    encoder = Path("outputs/pretrain/encoder/encoder.safetensors").read_bytes()
    linear(params)
    assert json.loads(Path("outputs/linear/metrics.json").read_text()) == first
    assert Path("outputs/pretrain/encoder/encoder.safetensors").read_bytes() == encoder
    assert load_encoder("outputs/pretrain/encoder").spec.image_size == params.pretrain.image_size
