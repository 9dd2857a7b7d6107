"""Pretext accuracy beside kNN over the epochs: what tells learning from cheating."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from moco.study.definition import Study
from moco.study.record import Record
from moco.study.table import percent


@dataclass(frozen=True)
class Course:
    """One point's measure over the epochs.

    Attributes:
        label: of the point.
        measure: pretext_top1 or knn_top1.
        epochs: those with a reading in every seed.
        means: over the seeds, fractions of 1.
        stds: deviations of a sample of seeds; 0 of one alone.
    """

    label: str
    measure: str
    epochs: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]


def courses(records: Sequence[Record]) -> list[Course]:
    """Every point's pretext accuracy and kNN."""
    several = len({record.series for record in records}) > 1
    found = []
    for key in dict.fromkeys((record.series, record.x) for record in records):
        mine = [record for record in records if (record.series, record.x) == key]
        for measure in ("pretext_top1", "knn_top1"):
            readings = [_readings(record, measure) for record in mine]
            epochs = sorted(set.intersection(*(set(one) for one in readings)))
            values = [[one[epoch] for one in readings] for epoch in epochs]
            stds = tuple(stdev(one) if len(one) > 1 else 0.0 for one in values)
            label = f"{key[0]}, {key[1]}" if several else str(key[1])
            found.append(Course(label, measure, tuple(epochs), tuple(mean(one) for one in values), stds))
    return found


def verdicts_of_courses(study: Study, found: Sequence[Course]) -> list[str]:
    """For each point where both ended, and how far kNN fell from its best."""
    sentences = []
    for label in dict.fromkeys(course.label for course in found):
        pretext, knn = (
            next(c for c in found if (c.label, c.measure) == (label, measure))
            for measure in ("pretext_top1", "knn_top1")
        )
        if not pretext.means:
            continue
        text = f"{study.axis.label}, {label}: pretext accuracy ends at {percent(pretext.means[-1])}"
        if knn.means:
            best = max(range(len(knn.means)), key=lambda i: knn.means[i])
            text += f", kNN at {percent(knn.means[-1])}"
            fall = knn.means[best] - knn.means[-1]
            text += f", {100 * fall:.1f} points below its best (epoch {knn.epochs[best]:g})" if fall else ", its best"
        sentences.append(f"{text}.")
    return sentences


def _readings(record: Record, measure: str) -> dict[float, float]:
    """Epoch -> value, where there is one."""
    pairs = [(row["epoch"], row[measure]) for row in record.epochs]
    return {epoch: value for epoch, value in pairs if epoch is not None and value is not None}
