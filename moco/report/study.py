"""A study's results: the table, the figure and the page that holds both."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from moco.drawing import BLUE, GREEN, INK, ORANGE, PAGE, RED, picture
from moco.report.page import escape, render_markdown
from moco.study.definition import ORDERED, Scale, Study, X, place
from moco.study.epochs import Course, courses, verdicts_of_courses
from moco.study.record import Record
from moco.study.table import MARKS, Point, points_of, verdicts

TABLE, FIGURE, PAGE_FILE = "table.csv", "figure.png", "study.md"
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
MEASURES = {
    "linear_top1": "linear top-1, test",
    "linear_top5": "linear top-5, test",
    "knn_top1": "kNN top-1, test",
    "pretext_top1": "Pretext accuracy",
}


@dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Attributes:
        name: of the study.
        study: its file.
        scale: which grid.
        command: that made it.
        records: of the finished runs.
        left_out: run -> why it was not made.
        failed: what failed runs said.
    """

    name: str
    study: Study
    scale: Scale
    command: str
    records: Sequence[Record]
    left_out: Mapping[str, str]
    failed: Sequence[str]

    @property
    def points(self) -> list[Point]:
        """The settings that were measured."""
        return points_of(self.study, self.records, self.scale)


def write_study(folder: Path, outcome: Outcome) -> str:
    """Write study.md, table.csv and figure.png; the same bytes for the same outcome.

    Args:
        folder: made if missing.
        outcome: with at least one record.

    Returns:
        The page, Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(folder / TABLE, outcome.points)
    draw(folder / FIGURE, outcome)
    text = render_markdown(_context(outcome), "study.md.jinja")
    (folder / PAGE_FILE).write_text(text, encoding="utf-8")
    return text


def draw(path: Path, outcome: Outcome) -> None:
    """Accuracy over the axis, the published figures beside it; or both accuracies over the epochs."""
    study = outcome.study
    with picture(path, (PAGE, HEIGHT)) as figure:
        if study.curves:
            found = courses(outcome.records)
            for number, measure in enumerate(("pretext_top1", "knn_top1"), 1):
                axes = figure.add_subplot(1, 2, number, xlabel="epoch")
                axes.set_title(MEASURES["pretext_top1"] if number == 1 else "kNN on the validation split")
                _epochs(axes, [one for one in found if one.measure == measure], f"{study.axis.label}: ")
            return
        mine, theirs = defaultdict[str, list[Placed]](list), defaultdict[str, list[Placed]](list)
        for point in outcome.points:
            mine[point.series].append((point.x, point.place, point.mean, point.std))
        for entry in study.published:
            for x, value in entry.values.items():
                if not isinstance(value, str):
                    theirs[entry.series].append((x, _place_of(study, x), value / 100, None))
        styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(dict.fromkeys([*mine, *theirs]))}
        columns = 2 if theirs else 1
        axes = figure.add_subplot(1, columns, 1, title=f"Ours: {MEASURES[study.metric]}")
        _points(axes, study, mine, styles)
        if theirs:
            axes = figure.add_subplot(1, columns, 2, title=_title(study))
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
    """Names above their points; below where the name of a point a little higher would be in the way."""
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
    """Those of some places on a logarithmic axis that leave room for their labels."""
    if len(ticks) < 2:
        return ticks
    room = (ticks[-1] / ticks[0]) ** (1 / 12)
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick / kept[-1] >= room:
            kept.append(tick)
    return kept


def _epochs(axes: Axes, found: list[Course], before: str) -> None:
    for course, style in zip(found, STYLES * len(found), strict=False):
        axes.plot(
            course.epochs,
            course.means,
            label=before + course.label,
            linewidth=1.8,
            markersize=4.5,
            **style,  # type: ignore[arg-type]
        )
        low = [value - std for value, std in zip(course.means, course.stds, strict=True)]
        high = [value + std for value, std in zip(course.means, course.stds, strict=True)]
        axes.fill_between(course.epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent(axes)
    axes.legend(loc="best", fontsize=9, handlelength=3)


def _percent(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))  # what one decimal can say
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if high - low > 0.06 else 1))


def _title(study: Study) -> str:
    known = sorted({entry.known for entry in study.published} - {"published"})
    return ", ".join(["Published", *known])


def _place_of(study: Study, x: X) -> float | None:
    return place(study.axis.kind, x, str(x), "imagenet")


def _write_table(path: Path, points: Sequence[Point]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["series", "x", "place", "seeds", "mean", "std", "published_percent", "published_as_known"])
        writer.writerows([p.series, p.x, p.place, len(p.values), p.mean, p.std, p.published, p.known] for p in points)


def _context(outcome: Outcome) -> dict[str, Any]:
    study, points = outcome.study, outcome.points
    sentences = verdicts_of_courses(study, courses(outcome.records)) if study.curves else []
    published = any(point.published is not None for point in points)
    several = len({point.series for point in points}) > 1
    head = [*(["series"] if several else []), study.axis.label, MEASURES[study.metric], "seeds"]
    if study.axis.kind == "parameters":
        head.insert(-2, "encoder")
    head += ["published"] if published else []
    return {
        "study": study,
        "grid": study.scales[outcome.scale],
        "command": outcome.command,
        "align": "l" * (len(head) - 2 - published) + "rr" + "r" * published,
        "head": " | ".join(head),
        "rows": [_row(study, point, several, published) for point in points],
        "beside": _beside(outcome),
        "below": "Means over the seeds ± the deviation of a sample of them, in the figure as bars."
        if any(p.std is not None for p in points)
        else "One seed each.",
        "sentences": [*sentences, *verdicts(study, points)],
        "sources": _sources(study, points),
        "left_out": _by_reason(outcome.left_out) + [escape(line) for line in outcome.failed],
        "made": _made(outcome.records),
        "example": outcome.records[0].name,
    }


def _row(study: Study, point: Point, several: bool, published: bool) -> str:
    figure = f"{100 * point.mean:.1f}" + (f" ± {100 * point.std:.1f}" if point.std is not None else "") + " %"
    cells = [escape(point.series)] if several else []
    cells += [f"{point.place:.1f}", escape(str(point.x))] if study.axis.kind == "parameters" else [escape(str(point.x))]
    cells += [figure, str(len(point.values))]
    if published:
        value = point.published
        shown = "–" if value is None else value if isinstance(value, str) else f"{value:.1f} %"
        cells.append(f"{shown}{MARKS[point.known or 'published']}")
    return " | ".join(cells)


def _beside(outcome: Outcome) -> str:
    """What the same images give without training, by the same evaluation, in a sentence; nothing where it was not measured."""
    found = []
    for kind, words in (("random", "untrained encoders"), ("pixels", "raw pixels")):
        values = [
            100 * figures[outcome.study.metric]
            for record in outcome.records
            if (figures := record.metrics["linear"].get(kind)) and figures.get(outcome.study.metric) is not None
        ]
        if values:
            low, high = f"{min(values):.1f}", f"{max(values):.1f}"
            found.append(f"{words} {low} %" if low == high else f"{words} {low} to {high} %")
    return f"Without training, by the same evaluation: {', '.join(found)}." if found else ""


def _sources(study: Study, points: Sequence[Point]) -> list[str]:
    """What published figures there are that have no place in the table, and what all of them are of."""
    here = {(point.series, point.x) for point in points}
    lines = []
    for entry in study.published:
        rest = [f"{x}: {value}" for x, value in entry.values.items() if (entry.series, x) not in here]
        text = f"{entry.series}: {entry.of}, %{MARKS[entry.known]}"
        lines.append(f"{text}; not in the table: {', '.join(rest)}." if rest else f"{text}.")
    return lines


def _by_reason(left_out: Mapping[str, str]) -> list[str]:
    reasons = dict.fromkeys(left_out.values())
    return [
        f"{escape(reason)}: {escape(shortened([name for name, why in left_out.items() if why == reason]))}"
        for reason in reasons
    ]


def shortened(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _made(records: Sequence[Record]) -> dict[str, str]:
    ran = sum(
        seconds for record in records for stage, seconds in record.seconds.items() if stage not in record.restored
    )
    restored = sum(bool({"pretrain", "linear"} & set(record.restored)) for record in records)
    note = f"; {restored} runs had stages that DVC restored, which are not counted" if restored else ""
    commits = dict.fromkeys(r.commit[:12] + (" with uncommitted changes" if r.edited else "") for r in records)
    return {
        "runs": str(len(records)),
        "seeds": ", ".join(map(str, sorted({record.seed for record in records}))),
        "commit": ", ".join(commits),
        "data": ", ".join(dict.fromkeys(record.data_hash for record in records)),
        "machine": ", ".join(dict.fromkeys(record.machine for record in records)),
        "precision": ", ".join(dict.fromkeys(r.metrics["pretrain"].get("precision") or "not noted" for r in records)),
        "seconds": f"{ran:.0f} s, the runs' stages one after the other{note}",
    }
