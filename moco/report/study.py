"""A study's results: the table, the figure and the page that holds both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.files import write_table, write_text
from moco.report.page import escape, render_markdown
from moco.report.study_figure import MEASURES, draw_courses, draw_points
from moco.study.definition import Scale, Study, X
from moco.study.epochs import Course, courses
from moco.study.record import Record
from moco.study.table import MARKS, Point, points_of

TABLE, FIGURE, PAGE_FILE = "table.csv", "figure.png", "study.md"


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
        """List the settings that were measured."""
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
    study, points, over_epochs = outcome.study, outcome.points, courses(outcome.records)
    columns = ["series", "x", "place", "seeds", "mean", "std", "published_percent", "published_as_known"]
    rows = ([p.series, p.x, p.place, len(p.values), p.mean, p.std, p.published, p.known] for p in points)
    write_table(folder / TABLE, columns, rows)
    if study.curves:
        draw_courses(folder / FIGURE, study, over_epochs)
    else:
        draw_points(folder / FIGURE, study, points)
    text = render_markdown(_context(outcome, points, over_epochs), "study.md.jinja")
    write_text(folder / PAGE_FILE, text)
    return text


def _context(outcome: Outcome, points: list[Point], over_epochs: list[Course]) -> dict[str, Any]:
    study = outcome.study
    published = any(point.published is not None for point in points)
    several = len({point.series for point in points}) > 1
    head = [*(["series"] if several else []), escape(study.axis.label)]
    head += ["encoder"] if study.axis.kind == "parameters" else []
    align = "l" * len(head)
    head += [MEASURES[study.metric], "seeds"]
    head += ["pretext top-1, last epoch", "kNN on validation, last epoch"] if study.curves else []
    head += ["published"] if published else []
    ends = {(course.series, course.x, course.measure): course.means[-1] for course in over_epochs if course.means}
    return {
        "study": study,
        "grid": study.scales[outcome.scale],
        "command": outcome.command,
        "align": align + "r" * (len(head) - len(align)),
        "head": " | ".join(head),
        "rows": [_row(study, point, several, published, ends) for point in points],
        "several_seeds": any(point.std is not None for point in points),
        "untrained": _untrained(outcome),
        "sources": _sources(study, points),
        "left_out": _by_reason(outcome.left_out) + [escape(line) for line in outcome.failed],
        "made": _made(outcome.records),
        "example": outcome.records[0].name,
    }


def _row(study: Study, point: Point, several: bool, published: bool, ends: Mapping[tuple[str, X, str], float]) -> str:
    figure = f"{100 * point.mean:.1f}" + (f" ± {100 * point.std:.1f}" if point.std is not None else "") + " %"
    cells = [escape(point.series)] if several else []
    cells += [f"{point.place:.1f}", escape(str(point.x))] if study.axis.kind == "parameters" else [escape(str(point.x))]
    cells += [figure, str(len(point.values))]
    if study.curves:
        last = (ends.get((point.series, point.x, measure)) for measure in ("pretext_top1", "knn_top1"))
        cells += ["–" if value is None else f"{100 * value:.1f} %" for value in last]
    if published:
        value = point.published
        shown = "–" if value is None else escape(value) if isinstance(value, str) else f"{value:.1f} %"
        cells.append(f"{shown}{MARKS[point.known or 'published']}")
    return " | ".join(cells)


def _untrained(outcome: Outcome) -> str:
    """Say what the same images give without training; nothing where it was not measured."""
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
    """List what the published figures are of, with those that have no place in the table."""
    here = {(point.series, point.x) for point in points}
    lines = []
    for entry in study.published:
        rest = [escape(f"{x}: {value}") for x, value in entry.values.items() if (entry.series, x) not in here]
        text = f"{escape(entry.series)}: {escape(entry.of)}, %{MARKS[entry.known]}"
        lines.append(f"{text}; not in the table: {', '.join(rest)}." if rest else f"{text}.")
    return lines


def _by_reason(left_out: Mapping[str, str]) -> list[str]:
    reasons = dict.fromkeys(left_out.values())
    return [
        f"{escape(reason)}: {escape(shortened([name for name, why in left_out.items() if why == reason]))}"
        for reason in reasons
    ]


def shortened(names: Sequence[str]) -> str:
    """List a few names, and how many more there are."""
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
