"""What stage linear writes: figures with their intervals, and names that come back as they were."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile_names import HOSTILE

from moco.config import load_params
from moco.evaluation.linear import Evaluation
from moco.features.extract import Labelled
from moco.report.results import read_results
from moco.runs.curves import read_rows
from pipelines import linear

SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml", ["linear.learning_rates=[0.1, 1]"]).linear
NAMES = [*HOSTILE, "@SUM(1)", "+1", "-1", '"quoted", and more']
TRACKED = SimpleNamespace(results=lambda *_: None, artifact=lambda path: None)


def labelled(labels: list[int]) -> Labelled:
    images = SimpleNamespace(classes=NAMES, __len__=lambda: len(labels))
    return Labelled(images, np.arange(len(labels)), np.array(labels, dtype=np.int32))  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    test = labelled([*range(len(NAMES)), 0])
    found = Evaluation([math.nan, 0.5], 1.0, 0.5, 0.9, 0.4, np.zeros(len(test.labels), dtype=np.int64))
    linear._write_outputs({"moco": found}, labelled([3, 0, 0]), test, SETTINGS, TRACKED)
    return tmp_path / "outputs/linear"


def test_names_of_classes_come_back_as_they_were(written):
    with (written / "confusion.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["actual", "predicted"]
    assert [actual for actual, _ in rows] == [*NAMES, NAMES[0]]
    assert [row["actual"] for row in read_rows(written / "confusion.csv")] == [*NAMES, NAMES[0]]


def test_a_classifier_that_diverged_has_an_empty_cell_and_no_accuracy(written):
    assert (written / "sweep.csv").read_text() == "features,learning_rate,val_top1\nmoco,0.1,\nmoco,1.0,0.5\n"


def test_each_accuracy_stands_between_the_ends_of_its_interval_beside_the_commonest_class(written):
    metrics = json.loads((written / "metrics.json").read_text())
    moco = metrics["moco"]
    assert moco["linear_top1_low"] < moco["linear_top1"] == 0.5 < moco["linear_top1_high"]
    assert moco["knn_top1_low"] < moco["knn_top1"] == 0.4 < moco["knn_top1_high"]
    assert metrics["majority"]["linear_top1"] == 2 / (len(NAMES) + 1)  # class 0, the commonest of training
    assert metrics["random"] == {"linear_top1": None, "linear_top5": None, "knn_top1": None}


def test_the_report_reads_an_empty_cell_as_no_accuracy(written, tmp_path):
    for stage, text in (("fetch", "{}"), ("shard", "{}"), ("pretrain", "{}")):
        (tmp_path / "outputs" / stage).mkdir()
        (tmp_path / "outputs" / stage / "metrics.json").write_text(text)
    columns = "step,epoch,loss,chance,top1,top5,queue_fill,learning_rate,feature_std"
    (tmp_path / "outputs/pretrain/curves.csv").write_text(f"{columns}\n1,1,1,1,1,1,1,1,1\n")
    (tmp_path / "outputs/pretrain/readings.csv").write_text("epoch,knn_top1,spread,effective_rank,leak\n")
    rates, values = read_results(tmp_path / "outputs").sweep["moco"]
    assert rates.tolist() == [0.1, 1.0]
    assert math.isnan(values[0]) and values[1] == 0.5


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [(0, 0, "there is no test image"), (9, 0, "the test images have no labels"), (9, 3, None)],
)
def test_no_image_is_told_from_no_label(images, labels, said):
    full = labelled([0, 1])
    full = Labelled(range(2), full.indices, full.labels)  # type: ignore[arg-type]
    test = Labelled(range(images), np.arange(labels), np.zeros(labels, np.int32))  # type: ignore[arg-type]
    assert linear._no_labels(full, full, test) == said


@pytest.mark.parametrize(
    ("features", "flaw"),
    [
        (np.random.default_rng(0).normal(size=(64, 16)), None),
        (
            np.ones((64, 16)) + 1e-3 * np.random.default_rng(0).normal(size=(64, 16)),
            "have collapsed (effective rank 1.",
        ),
    ],
)
def test_an_encoder_of_almost_one_direction_has_a_flaw(monkeypatch, features, flaw):
    def extractor(*_):
        return SimpleNamespace(center=lambda split, chosen: features[chosen].astype(np.float32))

    encoder = SimpleNamespace(launch=None, spec=None, devices=[torch.device("cpu")])
    monkeypatch.setattr(linear, "_extractor", extractor)
    monkeypatch.setattr(linear, "_weights_hash", lambda encoder: "x")
    found = linear._collapsed(encoder, SimpleNamespace(images=range(64)))
    assert found is None if flaw is None else flaw in found
    assert linear._collapsed(encoder, SimpleNamespace(images=range(9))) is None  # too few to tell
