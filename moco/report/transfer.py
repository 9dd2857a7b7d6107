"""The transfer page: each task's figures by initialization, and predictions beside ground truth."""

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from moco.drawing import BLUE, CHART, GREEN, ORANGE, picture
from moco.errors import MocoError
from moco.report.page import escape, render_html, render_markdown
from moco.report.published import metric_of, published_beside
from moco.runs.curves import read_rows
from moco.transfer.config import Classification, Comparison, Detector, TransferParams
from moco.transfer.schedules import schedule_of, timetable

COLORS = {"random": ORANGE, "supervised": GREEN, "moco": BLUE}
NAMES = {"random": "random", "supervised": "supervised", "moco": "MoCo"}
TITLES = {
    "detection": "Detection",
    "instances": "Instance segmentation",
    "keypoints": "Keypoints",
    "semantic": "Semantic segmentation",
    "classification": "Classification",
}
COLUMNS = {
    "detection": [("box", "AP50"), ("box", "AP"), ("box", "AP75")],
    "instances": [("box", "AP"), ("box", "AP50"), ("mask", "AP"), ("mask", "AP50"), ("mask", "AP75")],
    "keypoints": [("keypoints", "AP"), ("keypoints", "AP50"), ("keypoints", "AP75")],
    "semantic": [("pixel", "mIoU"), ("pixel", "pixel_accuracy")],
    "classification": [("label", "top1"), ("label", "top5")],
}
"""The figures of each task's table: kind and name. Initializations are compared by the first."""


@dataclass(frozen=True)
class Found:
    """The results of one initialization on one task.

    Attributes:
        metrics: metrics.json: kind -> figure -> mean over the trials, and FIGURE_std.
        trials: "kind.figure" -> its value in each trial.
        curves: trial -> (steps, losses).
        picture: of predictions; None for classification.
    """

    metrics: dict[str, Any]
    trials: dict[str, list[float]]
    curves: dict[int, tuple[list[int], list[float]]]
    picture: Path | None

    @classmethod
    def read(cls, folder: Path) -> "Found":
        """Read the results of stage transfer.

        Raises:
            MocoError: they are missing.
        """
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            trials: dict[str, list[float]] = defaultdict(list)
            for row in read_rows(folder / "trials.csv"):
                trials[row["metric"]].append(float(row["value"]))
            curves: dict[int, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
            for row in read_rows(folder / "curves.csv"):
                steps, losses = curves[int(row["trial"])]
                steps.append(int(row["step"]))
                losses.append(float(row["loss"]))
            if not (trials and curves):
                raise ValueError("trials.csv or curves.csv is missing or empty")
        except (OSError, ValueError, KeyError) as error:
            raise MocoError(f"{folder}: no results ({error}); run `dvc repro transfer/dvc.yaml`") from None
        shown = folder / "predictions/predictions.png"
        return cls(metrics, dict(trials), dict(curves), shown if shown.exists() else None)


def write_transfer_report(folder: Path, results: Path, params: TransferParams) -> None:
    """Write report.md, report.html and their pictures; the same bytes for the same results.

    Args:
        folder: an empty folder.
        results: holds TASK-INIT of stage transfer.
        params: which tasks and initializations, and how they were trained.
    """
    tasks = []
    for task in params.tasks:
        comparison = params.of(task)
        assert comparison is not None  # the schema checks it
        found: dict[str, Found] = {init: Found.read(results / f"{task}-{init}") for init in params.inits}
        _draw(folder, task, found)
        tasks.append(_described(task, comparison, found) | {"published": published_beside(task, params)})
    several = any(params.of(task).training.trials > 1 for task in params.tasks)  # type: ignore[union-attr]
    text = render_markdown({"tasks": tasks, "several": several}, "transfer.md.jinja")
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(render_html(text, folder), encoding="utf-8")


def _described(task: str, comparison: Comparison, found: dict[str, Found]) -> dict[str, Any]:
    columns = COLUMNS[task]
    kinds = len({kind for kind, _ in columns}) > 1
    names = [f"{kind} {name}" if kinds else name.replace("_", " ") for kind, name in columns]
    lead = columns[0]
    rows = []
    for init, one in found.items():
        cells = [_figure(one.metrics, *column) for column in columns]
        rows.append(" | ".join([NAMES[init], *cells, _difference(found, init, lead)]))
    return {
        "name": task,
        "title": TITLES[task],
        "about": _about(comparison),
        "align": "l" + "r" * (len(columns) + 1),
        "head": " | ".join(["weights", *names, f"{names[0]}, points over random"]),
        "rows": rows,
        "sentences": _verdicts(found, lead, names[0]) + _majority(found),
        "pictures": [(init, NAMES[init]) for init, one in found.items() if one.picture],
    }


def _about(comparison: Comparison) -> str:
    data, training = comparison.data, comparison.training
    schedule = schedule_of(training)
    times = timetable(schedule, training.batch_size, 10**9, training.iterations, training.learning_rate)
    length = (
        f"{times.iterations:,} iterations"
        if schedule.unit == "iterations" or training.iterations
        else f"{schedule.length} epochs"
    )
    network = ""
    if isinstance(training, Detector):
        network = " with FPN" if training.neck == "fpn" else " with C4 (res5 in the box head, extra norm)"
    trials = f"{training.trials} trial{'s' if training.trials > 1 else ''}"
    if isinstance(training, Classification) and training.label_fraction < 1:
        trials = f"{training.label_fraction:.0%} of the labels, {trials}"
    train, test = (escape(part if isinstance(part, str) else ", ".join(part)) for part in (data.train, data.test))
    return (
        f"{train} to train, {test} to test ({data.format}); schedule {training.schedule}{network}, {length} of"
        f" {training.batch_size} images, learning rate {times.learning_rate:g}, batch norm {training.batch_norm}, {trials}. The metric is {metric_of(comparison)}."
    )


def _figure(metrics: dict[str, Any], kind: str, name: str) -> str:
    value, deviation = metrics[kind][name], metrics[kind].get(f"{name}_std")
    if value is None:
        return "–"
    text = f"{100 * value:.1f}" + (f" ± {100 * deviation:.1f}" if deviation is not None else "")
    low, high = (metrics[kind].get(f"{name}_{end}") for end in ("low", "high"))
    return text if low is None or high is None else f"{text} ({100 * low:.1f} to {100 * high:.1f})"


def _difference(found: dict[str, Found], init: str, lead: tuple[str, str]) -> str:
    kind, name = lead
    if init == "random" or "random" not in found:
        return "–"
    here, there = (found[one].metrics[kind][name] for one in (init, "random"))
    return "–" if here is None or there is None else f"{100 * (here - there):+.1f}".replace("-", "−")


def _majority(found: dict[str, Found]) -> list[str]:
    """Say what needs no features, where labels were tested."""
    shares = [one.metrics["label"]["majority"] for one in found.values() if "majority" in one.metrics.get("label", {})]
    return [
        f"Naming the commonest class alone gives {100 * share:.1f} %; in brackets are 95 % intervals (Wilson)."
        for share in shares[:1]
    ]


def _verdicts(found: dict[str, Found], lead: tuple[str, str], name: str) -> list[str]:
    """Compare MoCo with the others in words, with the standard error of the difference."""
    kind, figure = lead
    sentences = []
    for other in ("random", "supervised"):
        if "moco" not in found or other not in found:
            continue
        mine, theirs = (np.array(found[init].trials.get(f"{kind}.{figure}", [])) for init in ("moco", other))
        if not len(mine) or not len(theirs):
            continue
        apart = 100 * (mine.mean() - theirs.mean())
        text = f"MoCo is {abs(apart):.1f} points {'above' if apart >= 0 else 'below'} {NAMES[other]} weights in {name}"
        if min(len(mine), len(theirs)) > 1:
            error = 100 * float(np.sqrt(mine.var(ddof=1) / len(mine) + theirs.var(ddof=1) / len(theirs)))
            text += f" (standard error of the difference {error:.1f})"
        sentences.append(text + ".")
    return sentences


def _draw(folder: Path, task: str, found: dict[str, Found]) -> None:
    kind, name = COLUMNS[task][0]
    with picture(folder / f"loss-{task}.png", CHART) as figure:
        axes = figure.add_subplot(title="Training loss, every trial", xlabel="step")
        for init, one in found.items():
            for number, (steps, losses) in sorted(one.curves.items()):
                label = NAMES[init] if number == 0 else None
                axes.plot(steps, losses, color=COLORS[init], linewidth=1.3, alpha=0.8, label=label)
        axes.set_ylim(bottom=0)
        axes.legend(loc="best", fontsize=9.5)
    with picture(folder / f"trials-{task}.png", CHART) as figure:
        axes = figure.add_subplot(title=f"{name.replace('_', ' ')}, every trial")
        for place, (init, one) in enumerate(found.items()):
            values = one.trials.get(f"{kind}.{name}", [])
            if values:
                axes.hlines(np.mean(values), place - 0.25, place + 0.25, color=COLORS[init], linewidth=2.5)
                axes.plot([place] * len(values), values, "o", color=COLORS[init], alpha=0.6, markersize=6)
        axes.set_xticks(range(len(found)), [NAMES[init] for init in found])
        axes.set_xlim(-0.6, len(found) - 0.4)
        axes.yaxis.set_major_formatter(
            PercentFormatter(1, decimals=0 if axes.get_ylim()[1] - axes.get_ylim()[0] > 0.04 else 1)
        )
        axes.margins(y=0.15)
    for init, one in found.items():
        if one.picture:
            shutil.copyfile(one.picture, folder / f"predictions-{task}-{init}.png")
