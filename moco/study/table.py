"""What a study's numbers say: means over seeds, ours beside the published ones, and sentences that follow from both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev

from moco.study.definition import ORDERED, Known, Study, X, runs_of
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
        """Mean over the seeds, a fraction of 1."""
        return mean(self.values)

    @property
    def std(self) -> float | None:
        """Deviation of a sample of seeds (n - 1); None of one alone."""
        return stdev(self.values) if len(self.values) > 1 else None


def points_of(study: Study, records: Sequence[Record], scale: str) -> list[Point]:
    """The points that have a figure, in the order of the study's file.

    Args:
        study: the study's file.
        records: of its finished runs.
        scale: whose grid gives the order.
    """
    order = list(dict.fromkeys(run.point for run in runs_of("", study, scale, [0])))  # type: ignore[arg-type]
    found = []
    for series, x in order:
        mine = [record for record in records if (record.series, record.x) == (series, x)]
        values = tuple(value for record in mine if (value := record.value(study.metric)) is not None)
        if values:
            found.append(Point(series, x, mine[0].place, values, *_published(study, series, x)))
    return found


def verdicts(study: Study, points: Sequence[Point]) -> list[str]:
    """Sentences computed from the numbers: how each series runs, where it is best, in which order the series are.

    A difference counts where it exceeds twice its standard error, seeds being taken to scatter alike at all points; of
    single seeds every difference counts, and a sentence says so.
    """
    if not points:
        return ["No accuracy was measured: it needs labels in the training, validation and test splits."]
    spread = scatter(points)
    sentences = []
    series = list(dict.fromkeys(point.series for point in points))
    for name in series:
        mine = [point for point in points if point.series == name]
        if len(mine) > 1:
            sentences.append(_course(study, "Accuracy" if len(series) == 1 else f"{name}: accuracy", mine, spread))
    for x in _shared(points):
        sentences.append(_order(x, [point for point in points if point.x == x], spread))
    if len(series) > 1 and not _shared(points):
        best = [max((p for p in points if p.series == name), key=lambda point: point.mean) for name in series]
        ranked = sorted(best, key=lambda point: -point.mean)
        text = ", ".join(f"{point.series} {percent(point.mean)} (at {point.x})" for point in ranked)
        sentences.append(f"The best of each: {text}.")
    if all(len(point.values) == 1 for point in points):
        sentences.append(
            "One seed each: how far the same run scatters is not known, and small differences may be chance."
        )
    return sentences


def scatter(points: Sequence[Point]) -> float:
    """Deviation of a single seed, pooled over the points that have several; 0 where none has."""
    several = [point.values for point in points if len(point.values) > 1]
    if not several:
        return 0.0
    squares = sum(sum((value - mean(values)) ** 2 for value in values) for values in several)
    return math.sqrt(squares / sum(len(values) - 1 for values in several))


def trend(values: Sequence[float], errors: Sequence[float]) -> str:
    """How a series runs from left to right, in a phrase.

    Args:
        values: in the order of the axis, at least two.
        errors: standard error of each; a difference counts where it exceeds twice its own.

    Returns:
        "rises throughout", "falls throughout", "rises, if not at every step", "falls, if not at every step", "stays level",
        "rises, then falls", "falls, then rises", "rises on the way, but ends level", "falls on the way, but ends level" or "goes up
        and down".
    """
    steps = [_sign(b - a, math.hypot(e, f)) for (a, e), (b, f) in pairwise(zip(values, errors, strict=True))]
    turns = [step for step in steps if step]
    whole = _sign(values[-1] - values[0], math.hypot(errors[0], errors[-1]))
    directions = set(turns) | ({whole} if whole else set())
    if not directions:
        return "stays level"
    if len(directions) == 1:
        if whole == 0:
            return f"{'rises' if turns[0] > 0 else 'falls'} on the way, but ends level"
        return ("rises" if whole > 0 else "falls") + (" throughout" if all(steps) else ", if not at every step")
    changes = sum(a != b for a, b in pairwise(turns))
    if changes == 1:
        return "rises, then falls" if turns[0] > 0 else "falls, then rises"
    return "goes up and down"


def percent(share: float) -> str:
    """A fraction of 1 in words."""
    return f"{100 * share:.1f} %"


def _course(study: Study, subject: str, points: list[Point], spread: float) -> str:
    """How one series runs, beside the published figures at the same places."""
    theirs = [point for point in points if _number(point) is not None]
    best = max(points, key=lambda point: point.mean)
    if study.axis.kind in ORDERED:
        first, *_, last = ordered = sorted(points, key=lambda point: point.place or 0)
        text = f"{subject} {_trend(ordered, spread)} ({percent(first.mean)} at {first.x}, {percent(last.mean)} at {last.x}, highest {percent(best.mean)} at {best.x})"
        if len(theirs) < 2:
            return f"{text}."
        theirs.sort(key=lambda point: point.place or 0)
        here, there = _trend(theirs, spread), trend([_number(p) or 0 for p in theirs], [0.0] * len(theirs))
        return f"{text}; where there are published figures, " + (
            f"ours {here}, and so does theirs{_mark(theirs[0])}."
            if here == there
            else f"ours {here}, theirs {there}{_mark(theirs[0])}."
        )
    second = sorted(points, key=lambda point: -point.mean)[1]
    text = f"{subject}, highest: {best.x} ({percent(best.mean)})"
    if not _clear(best, second, spread):
        text += f", not clearly above {second.x} ({percent(second.mean)})"
    if len(theirs) < 2:
        return f"{text}."
    champion = max(theirs, key=lambda point: _number(point) or 0)
    if max(theirs, key=lambda point: point.mean) is champion:
        return f"{text}; of those with published figures, {champion.x} is highest here and there{_mark(champion)}."
    return f"{text}; the highest published is {champion.x}{_mark(champion)}, where ours has {percent(champion.mean)}."


def _order(x: X, points: list[Point], spread: float) -> str:
    """The series at one place, and whether the published ones stand in the same order there."""
    ranked = sorted(points, key=lambda point: -point.mean)
    text = f"At {x}: {ranked[0].series} {percent(ranked[0].mean)}"
    for above, below in pairwise(ranked):
        relation = "above" if _clear(above, below, spread) else "not clearly above"
        text += f", {relation} {below.series} {percent(below.mean)}"
    theirs = [point for point in ranked if _number(point) is not None]
    if len(theirs) < 2:
        return f"{text}."
    there = sorted(theirs, key=lambda point: -(_number(point) or 0))
    if there == theirs:
        return f"{text}; the published order is the same{_mark(there[0])}."
    return f"{text}; the published order is {', '.join(point.series for point in there)}{_mark(there[0])}."


def _shared(points: Sequence[Point]) -> list[X]:
    """Places where several series have a point."""
    places = [point.x for point in points]
    return [x for x in dict.fromkeys(places) if places.count(x) > 1]


def _published(study: Study, series: str, x: X) -> tuple[float | str | None, Known | None]:
    for entry in study.published:
        if entry.series == series and x in entry.values:
            return entry.values[x], entry.known
    return None, None


def _trend(points: Sequence[Point], spread: float) -> str:
    return trend([point.mean for point in points], [_error(point, spread) for point in points])


def _number(point: Point) -> float | None:
    return None if point.published is None or isinstance(point.published, str) else float(point.published)


def _mark(point: Point) -> str:
    return MARKS[point.known or "published"]


def _error(point: Point, spread: float) -> float:
    """Standard error of a mean."""
    return spread / math.sqrt(len(point.values))


def _clear(above: Point, below: Point, spread: float) -> bool:
    return _sign(above.mean - below.mean, math.hypot(_error(above, spread), _error(below, spread))) > 0


def _sign(difference: float, error: float) -> int:
    return 0 if abs(difference) <= 2 * error else int(math.copysign(1, difference))
