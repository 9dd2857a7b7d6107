"""What the earlier stages found, read from their outputs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.runs.curves import read_rows

Table = dict[str, NDArray[np.float64]]
"""Columns of a CSV of numbers, all of one length; NaN where a cell is empty."""
CURVES = ("step", "epoch", "loss", "chance", "top1", "top5", "queue_fill", "feature_std")
MEASURED = ("knn_top1", "spread", "effective_rank", "leak")
READINGS = ("epoch", *MEASURED)
Sweep = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""For each kind of features: learning rates, ascending, and validation accuracies."""


@dataclass(frozen=True)
class LinearScores:
    """Test accuracies of one kind of features, fractions of 1."""

    linear_top1: float
    linear_top5: float
    knn_top1: float


@dataclass(frozen=True)
class Results:
    """Everything that the stages before the report wrote down.

    Attributes:
        fetch, shard, pretrain, linear: metrics.json of each stage.
        curves: the rows of pretraining: `CURVES`.
        readings: those on the validation split: `READINGS`, NaN where one was not taken.
        scores: by kind of features; empty where the images have no labels.
        sweep: by kind of features; empty likewise.
        confusion: pairs (actual, predicted) of class names, one for each test image.
    """

    fetch: dict[str, Any]
    shard: dict[str, Any]
    pretrain: dict[str, Any]
    linear: dict[str, Any]
    curves: Table
    readings: Table
    scores: dict[str, LinearScores]
    sweep: Sweep
    confusion: list[tuple[str, str]]


def read_results(outputs: Path) -> Results:
    """Read outputs/{fetch,shard,pretrain,linear}.

    Raises:
        MocoError: a file is missing or not what its stage writes.
    """
    metrics = {stage: _json(outputs / stage / "metrics.json") for stage in ("fetch", "shard", "pretrain", "linear")}
    scores = {
        kind: LinearScores(*(float(values[key]) for key in ("linear_top1", "linear_top5", "knn_top1")))
        for kind in ("moco", "random", "pixels")
        if (values := metrics["linear"].get(kind)) and values.get("linear_top1") is not None
    }
    sweep: Sweep = {}
    rows = read_rows(outputs / "linear" / "sweep.csv", ("features", "learning_rate", "val_top1"))
    for kind in scores:
        points = sorted(
            (float(row["learning_rate"]), float(row["val_top1"] or "nan")) for row in rows if row["features"] == kind
        )
        if points:
            sweep[kind] = (np.array([rate for rate, _ in points]), np.array([value for _, value in points]))
    confusion = read_rows(outputs / "linear" / "confusion.csv", ("actual", "predicted"))
    curves = _numbers(outputs / "pretrain" / "curves.csv", CURVES)
    if not len(curves["step"]):
        raise MocoError(f"{outputs / 'pretrain' / 'curves.csv'}: holds no rows; lower pretrain.log_every_steps")
    return Results(
        **metrics,
        curves=curves,
        readings=_numbers(outputs / "pretrain" / "readings.csv", READINGS, may_lack=MEASURED),
        scores=scores,
        sweep=sweep,
        confusion=[(row["actual"], row["predicted"]) for row in confusion],
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run that stage first (`dvc repro` runs all)") from None
    except ValueError as error:
        raise MocoError(f"{path}: not valid JSON ({error}); run that stage again") from None


def _numbers(path: Path, columns: tuple[str, ...], may_lack: tuple[str, ...] = ()) -> Table:
    rows = read_rows(path, columns)

    def number(row: dict[str, str], column: str) -> float:
        return float("nan") if column in may_lack and not row[column] else float(row[column])

    try:
        return {column: np.array([number(row, column) for row in rows]) for column in columns}
    except ValueError as error:
        raise MocoError(f"{path}: a cell is not a number ({error}); run that stage again") from None
