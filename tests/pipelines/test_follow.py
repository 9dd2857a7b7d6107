"""Curves on disk reach the tracked run: each row once, whoever writes them."""

from moco import tracking
from moco.training.curves import Curve
from pipelines import follow


class Remembered(tracking.Run):
    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values, step) -> None:
        self.points.append((step, dict(values)))


def test_rows_are_reported_once_and_in_order_even_if_the_file_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "SECONDS", 0.01)
    tracked = Remembered()
    with follow.followed(tmp_path, tracked, steps_per_epoch=10):
        curve = Curve(tmp_path / "curves.csv", ["step", "loss"], upto=0)
        for step in (1, 2, 3):
            curve.add({"step": step, "loss": step / 2})
        again = Curve(tmp_path / "curves.csv", ["step", "loss"], upto=1)  # resumed from step 1
        for step in (2, 3, 4):
            again.add({"step": step, "loss": step / 2})
        Curve(tmp_path / "readings.csv", ["epoch", "knn_top1"], upto=0).add({"epoch": 2, "knn_top1": 0.5})
    losses = [(step, values) for step, values in tracked.points if "loss" in values]
    assert losses == [(step, {"loss": step / 2}) for step in (1, 2, 3, 4)]
    assert (20, {"knn_top1": 0.5}) in tracked.points
