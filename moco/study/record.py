"""What one run of a study left: `runs/studies/STUDY-SCALE/RUN.json`."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moco.files import write_text
from moco.settings import Settings
from moco.study.definition import X


class Record(Settings):
    """One finished run.

    Attributes:
        name: the run's, and the DVC experiment's.
        series, x, seed: as in the study's file.
        place: on a numbered axis; None: the axis has names only.
        fingerprint: of all that decides the result: parameters, code, data.
        commit: of the workspace that it was run from.
        edited: whether files that git tracks were changed there.
        data_hash: DVC's, of the shards.
        seconds: stage -> how long it took.
        restored: stages that DVC had the outputs of, and did not run.
        metrics: stage -> its metrics.json.
        epochs: one row an epoch: epoch, pretext_top1 (mean over the epoch), knn_top1.
        machine: cores and processor.
        tracked: id of the MLflow run; None without tracking.
    """

    name: str
    series: str
    x: X
    seed: int
    place: float | None
    fingerprint: str
    commit: str
    edited: bool
    data_hash: str
    seconds: dict[str, float]
    restored: list[str]
    metrics: dict[str, dict[str, Any]]
    epochs: list[dict[str, float | None]]
    machine: str
    tracked: str | None

    def value(self, metric: str) -> float | None:
        """Get a figure of the encoder on the test split, a fraction of 1; None: not measured."""
        found = self.metrics["linear"].get("moco", {}).get(metric)
        return None if found is None else float(found)


def read(path: Path) -> Record | None:
    """Read a record; None where there is none, or one of another version of this file."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def write(path: Path, record: Record) -> None:
    """Write a record as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, record.model_dump_json(indent=2) + "\n")


def epochs_of(curves: list[dict[str, str]], readings: list[dict[str, str]]) -> list[dict[str, float | None]]:
    """Merge curves.csv and readings.csv to one row an epoch, with the mean pretext accuracy."""
    by_epoch: dict[int, list[float]] = {}
    for row in curves:
        by_epoch.setdefault(max(1, -int(-float(row["epoch"]) // 1)), []).append(float(row["top1"]))
    knn = {int(row["epoch"]): float(row["knn_top1"]) for row in readings if row["knn_top1"]}
    return [
        {
            "epoch": float(epoch),
            "pretext_top1": sum(values) / len(values) if values else None,
            "knn_top1": knn.get(epoch),
        }
        for epoch in sorted(by_epoch.keys() | knn.keys())
        for values in [by_epoch.get(epoch, [])]
    ]
