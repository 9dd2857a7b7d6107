"""Pretext accuracy beside kNN over the epochs: what tells learning from cheating."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from moco.study.definition import X
from moco.study.record import Record


@dataclass(frozen=True)
class Course:
    """One point's measure over the epochs.

    Attributes:
        series, x: of the point.
        measure: pretext_top1 or knn_top1.
        epochs: those with a reading in every seed.
        means: over the seeds, fractions of 1.
        stds: deviations of a sample of seeds; 0 for a single seed.
    """

    series: str
    x: X
    measure: str
    epochs: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]


def courses(records: Sequence[Record]) -> list[Course]:
    """Gather every point's pretext accuracy and kNN."""
    found = []
    for key in dict.fromkeys((record.series, record.x) for record in records):
        mine = [record for record in records if (record.series, record.x) == key]
        for measure in ("pretext_top1", "knn_top1"):
            readings = [_readings(record, measure) for record in mine]
            epochs = sorted(set.intersection(*(set(one) for one in readings)))
            values = [[one[epoch] for one in readings] for epoch in epochs]
            stds = tuple(stdev(one) if len(one) > 1 else 0.0 for one in values)
            found.append(Course(*key, measure, tuple(epochs), tuple(mean(one) for one in values), stds))
    return found


def _readings(record: Record, measure: str) -> dict[float, float]:
    """Map epoch to value, where there is one."""
    pairs = [(row["epoch"], row[measure]) for row in record.epochs]
    return {epoch: value for epoch, value in pairs if epoch is not None and value is not None}
