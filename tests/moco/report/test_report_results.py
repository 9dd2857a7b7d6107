"""Results are read from the stages' files, and what is missing is named."""

import json
from pathlib import Path

import pytest

from moco.errors import MocoError
from moco.report.results import read_results

CURVES = "step,epoch,loss,chance,top1,top5,queue_fill,learning_rate,feature_std\n20,0,8.0,8.3,0.1,0.2,0.6,0.06,0.9\n"
SCORES = {"linear_top1": 0.8, "linear_top5": 0.9, "knn_top1": 0.7}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    files = {
        "fetch/metrics.json": "{}",
        "shard/metrics.json": "{}",
        "pretrain/metrics.json": "{}",
        "pretrain/curves.csv": CURVES,
        "pretrain/readings.csv": "epoch,knn_top1,spread,effective_rank,leak\n2,0.5,0.6,30,\n",
        "linear/metrics.json": json.dumps(dict.fromkeys(("pixels", "moco", "random"), SCORES)),
        "linear/sweep.csv": "features,learning_rate,val_top1\nmoco,3,0.5\nmoco,0.1,0.4\nrandom,0.1,0.3\npixels,0.1,0.3\n",
        "linear/confusion.csv": "actual,predicted\na,b\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_everything_is_read(outputs):
    results = read_results(outputs)
    assert results.curves["loss"].tolist() == [8.0]
    assert list(results.scores) == ["moco", "random", "pixels"]
    assert results.sweep["moco"][0].tolist() == [0.1, 3]
    assert results.sweep["moco"][1].tolist() == [0.4, 0.5]
    assert results.confusion == [("a", "b")]


def test_null_metrics_mean_no_scores(outputs):
    nulls = {kind: dict.fromkeys(SCORES) for kind in ("moco", "random", "pixels")}
    (outputs / "linear/metrics.json").write_text(json.dumps(nulls))
    (outputs / "linear/sweep.csv").write_text("features,learning_rate,val_top1\n")
    (outputs / "linear/confusion.csv").write_text("actual,predicted\n")
    (outputs / "pretrain/readings.csv").write_text("epoch,knn_top1,spread,effective_rank,leak\n")
    results = read_results(outputs)
    assert results.scores == {} and results.sweep == {} and results.confusion == []
    assert len(results.readings["epoch"]) == 0


@pytest.mark.parametrize("name", ["fetch/metrics.json", "pretrain/curves.csv", "linear/sweep.csv"])
def test_a_missing_file_is_named_with_the_remedy(outputs, name):
    (outputs / name).unlink()
    with pytest.raises(MocoError, match=rf"{name}: no such file; run that stage first"):
        read_results(outputs)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("shard/metrics.json", "{", "not valid JSON"),
        ("pretrain/curves.csv", "step,epoch,loss\n1,1,2\n", "lacks the column chance"),
        ("pretrain/curves.csv", CURVES.replace("8.0", "oops"), "a cell is not a number"),
        ("pretrain/curves.csv", CURVES.splitlines()[0] + "\n", "holds no rows"),
    ],
)
def test_a_damaged_file_is_named(outputs, name, text, complaint):
    (outputs / name).write_text(text)
    with pytest.raises(MocoError, match=f"{name}.*{complaint}"):
        read_results(outputs)
