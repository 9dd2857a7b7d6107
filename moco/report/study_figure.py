"""A study's figure: accuracy over the axis beside the published one, or over the epochs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from moco.drawing import BLUE, GREEN, INK, ORANGE, PAGE, RED, picture
from moco.study.definition import ORDERED, Study, X, place
from moco.study.epochs import Course
from moco.study.table import Point

HEIGHT = 3.6
Placed = tuple[X, float | None, float, float | None]
"""x, place, mean, std."""
STYLES = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": ORANGE, "marker": "s", "linestyle": "--"},
    {"color": GREEN, "marker": "^", "linestyle": ":"},
    {"color": RED, "marker": "D", "linestyle": "-."},
)
"""Of the series: told apart without color too, by marker and stroke."""
MEASURES = {"linear_top1": "linear top-1, test", "linear_top5": "linear top-5, test", "knn_top1": "kNN top-1, test"}


def draw_points(path: Path, study: Study, points: Sequence[Point]) -> None:
    """Draw accuracy over the axis, the published figures in a second panel."""
    mine, theirs = defaultdict[str, list[Placed]](list), defaultdict[str, list[Placed]](list)
    for point in points:
        mine[point.series].append((point.x, point.place, point.mean, point.std))
    for entry in study.published:
        for x, value in entry.values.items():
            if not isinstance(value, str):
                theirs[entry.series].append((x, place(study.axis.kind, x, str(x)), value / 100, None))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(dict.fromkeys([*mine, *theirs]))}
    with picture(path, (PAGE, HEIGHT)) as figure:
        columns = 2 if theirs else 1
        axes = figure.add_subplot(1, columns, 1, title=f"Ours: {MEASURES[study.metric]}")
        _points(axes, study, mine, styles)
        if theirs:
            known = sorted({entry.known for entry in study.published} - {"published"})
            axes = figure.add_subplot(1, columns, 2, title=", ".join(["Published", *known]))
            _points(axes, study, theirs, styles)
        if len(styles) > 1:  # one for both panels, beside no point
            lines: dict[str, Any] = {}
            for axes in figure.axes:
                handles, labels = axes.get_legend_handles_labels()
                lines |= zip(labels, handles, strict=True)
            figure.legend(
                [lines[name] for name in styles],
                styles,
                loc="outside lower center",
                ncols=len(styles),
                fontsize=9,
                handlelength=3,
            )


def draw_courses(path: Path, study: Study, courses: Sequence[Course]) -> None:
    """Draw pretext accuracy beside kNN over the epochs, a line a point."""
    several = len({course.series for course in courses}) > 1
    titles = {"pretext_top1": "Pretext accuracy", "knn_top1": "kNN on the validation split"}
    with picture(path, (PAGE, HEIGHT)) as figure:
        for number, (measure, title) in enumerate(titles.items(), 1):
            axes = figure.add_subplot(1, 2, number, title=title, xlabel="epoch")
            mine = [course for course in courses if course.measure == measure]
            for course, style in zip(mine, STYLES * len(mine), strict=False):
                label = f"{course.series}, {course.x}" if several else str(course.x)
                _course(axes, course, f"{study.axis.label}: {label}", style)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _percent(axes)
            axes.legend(loc="best", fontsize=9, handlelength=3)


def _points(axes: Axes, study: Study, series: Mapping[str, list[Placed]], styles: Mapping[str, Any]) -> None:
    axes.set_xlabel(study.axis.label)
    names = list(dict.fromkeys(str(x) for points in series.values() for x, *_ in points))
    ordered = study.axis.kind in ORDERED
    for name, points in series.items():
        if ordered:
            points = sorted(points, key=lambda point: point[1] or 0)
        places = [float(point[1] or 0) if ordered else float(names.index(str(point[0]))) for point in points]
        axes.errorbar(
            places,
            [point[2] for point in points],
            yerr=[point[3] or 0 for point in points],
            label=name,
            capsize=3,
            markersize=6,
            linewidth=1.6,
            **{**styles[name], **({} if ordered else {"linestyle": "none"})},
        )
    if study.axis.kind == "parameters":
        _name_each(axes, [(str(x), at or 0, value) for points in series.values() for x, at, value, _ in points])
    if study.axis.kind in ("log2", "log10", "parameters"):
        axes.set_xscale("log", base=2 if study.axis.kind == "log2" else 10)
        ticks = sorted({float(p[1] or 0) for points in series.values() for p in points})
        if study.axis.kind == "parameters":
            axes.margins(x=0.18, y=0.2)
        axes.set_xticks(_apart(ticks), [f"{tick:.3g}" if tick < 1000 else f"{tick:.0f}" for tick in _apart(ticks)])
        axes.xaxis.set_minor_locator(NullLocator())
    elif not ordered:
        axes.set_xticks(range(len(names)), [fill(name, 10) for name in names])
        axes.margins(x=0.12)
    _percent(axes)


def _name_each(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write names above their points, or below where another name is in the way."""
    near = max(value for *_, value in points) - min(value for *_, value in points)
    for name, at, value in points:
        beneath = any(value < other < value + near / 6 and at / 1.3 < place < at * 1.3 for _, place, other in points)
        axes.annotate(
            name,
            (at, value),
            (0, -15 if beneath else 7),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=INK,
        )


def _apart(ticks: list[float]) -> list[float]:
    """Choose places on a logarithmic axis that leave room for their labels."""
    if len(ticks) < 2:
        return ticks
    room = (ticks[-1] / ticks[0]) ** (1 / 12)
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick / kept[-1] >= room:
            kept.append(tick)
    return kept


def _course(axes: Axes, course: Course, label: str, style: Mapping[str, Any]) -> None:
    axes.plot(course.epochs, course.means, label=label, linewidth=1.8, markersize=4.5, **style)
    low = [value - std for value, std in zip(course.means, course.stds, strict=True)]
    high = [value + std for value, std in zip(course.means, course.stds, strict=True)]
    axes.fill_between(course.epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _percent(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))  # what one decimal can say
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if high - low > 0.06 else 1))
