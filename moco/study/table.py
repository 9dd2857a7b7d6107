"""A study's numbers: means over seeds, ours beside the published ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from moco.study.definition import Known, Scale, Study, X, variants
from moco.study.record import Record

MARKS: dict[Known, str] = {"published": "", "second-hand": " (second-hand)", "from memory": " (from memory)"}


@dataclass(frozen=True)
class Point:
    """One setting over its seeds.

    Attributes:
        series, x: as in the study's file.
        place: on a numbered axis; None: the axis has names only.
        values: one for each seed, fractions of 1.
        published: percent, or a word; None: there is no such figure.
        known: where that is from; None without it.
    """

    series: str
    x: X
    place: float | None
    values: tuple[float, ...]
    published: float | str | None
    known: Known | None

    @property
    def mean(self) -> float:
        """Average over the seeds, a fraction of 1."""
        return mean(self.values)

    @property
    def std(self) -> float | None:
        """Estimate the deviation of a single seed (n - 1); None from one alone."""
        return stdev(self.values) if len(self.values) > 1 else None


def points_of(study: Study, records: Sequence[Record], scale: Scale) -> list[Point]:
    """Gather the points that have a figure, in the order of the study's file.

    Args:
        study: the study's file.
        records: of its finished runs.
        scale: whose grid gives the order.
    """
    order = [variant.point for variant in variants("", study, scale, [0])]
    found = []
    for series, x in order:
        mine = [record for record in records if (record.series, record.x) == (series, x)]
        values = tuple(value for record in mine if (value := record.value(study.metric)) is not None)
        if values:
            found.append(Point(series, x, mine[0].place, values, *_published(study, series, x)))
    return found


def _published(study: Study, series: str, x: X) -> tuple[float | str | None, Known | None]:
    for entry in study.published:
        if entry.series == series and x in entry.values:
            return entry.values[x], entry.known
    return None, None
