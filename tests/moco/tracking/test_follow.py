"""Curves on disk reach the tracked run: each row once, whoever writes them."""

from small_material import ROOT

from moco import tracking
from moco.config import load_params
from moco.runs.curves import Curve
from moco.tracking import follow
from moco.training.log import READINGS
from moco.verdicts import Validation

SETTINGS = load_params(ROOT / "params.yaml").pretrain
CURVES = ["step", "epoch", "loss", "chance", "top1", "queue_fill", "feature_std"]


class Remembered(tracking.TrackedRun):
    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.tagged: list[dict[str, str]] = []

    def metrics(self, values, step) -> None:
        self.points.append((step, dict(values)))

    def tags(self, values) -> None:
        self.tagged.append(dict(values))


def row(step: int, spread: float = 0.9) -> dict[str, float]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": step / 2,
        "chance": 99.0,
        "top1": 0.1,
        "queue_fill": 1,
        "feature_std": spread,
    }


def test_rows_are_reported_once_and_in_order_even_if_the_file_begins_again(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "SECONDS", 0.01)
    tracked = Remembered()
    with follow.followed(tmp_path, tracked, 10, SETTINGS, Validation(0, 64, 256)):
        curve = Curve(tmp_path / "curves.csv", CURVES, upto=0)
        for step in (1, 2, 3):
            curve.add(row(step))
        again = Curve(tmp_path / "curves.csv", CURVES, upto=1)  # resumed from step 1
        for step in (2, 3, 4):
            again.add(row(step))
        Curve(tmp_path / "readings.csv", READINGS, upto=0).add(
            {"epoch": 2, "knn_top1": 0.5, "spread": 0.6, "effective_rank": 30}
        )
    losses = [(step, values["loss"]) for step, values in tracked.points if "loss" in values]
    assert losses == [(step, step / 2) for step in (1, 2, 3, 4)]
    assert tracked.tagged == []
    assert (20, {"knn_top1": 0.5, "spread": 0.6, "effective_rank": 30}) in tracked.points


def test_an_alarm_is_a_tag_with_its_remedy_once(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "SECONDS", 0.01)
    tracked = Remembered()
    with follow.followed(tmp_path, tracked, 10, SETTINGS, Validation(0, 64, 256)):
        curve = Curve(tmp_path / "curves.csv", CURVES, upto=0)
        for step in range(95, 120):
            curve.add(row(step, spread=0.01))
    ((name, text),) = (item for tags in tracked.tagged for item in tags.items())
    assert name == "warning.collapse"
    assert "spread 0.01" in text and "lower pretrain.lr_per_256 (now 0.09)" in text
