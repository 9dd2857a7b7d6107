"""The charts: training curves and readings, baselines, learning rates, confusion."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from moco.drawing import BLUE, CHART, FAINT, GRAY, INK, MUTED, NAMES, ORANGE, PAGE, SOURCES, picture
from moco.features.intervals import wilson
from moco.report.results import LinearScores, Sweep, Table
from moco.text import one_line
from moco.verdicts import COLLAPSED_SPREAD

DASHED = (0, (4, 3))
LABELLED_CLASSES = 30
"""Up to this many classes, the confusion matrix names its rows and columns."""


def loss(path: Path, curves: Table) -> None:
    """Draw InfoNCE beside chance, ln(1+K)."""
    with _over_steps(path, curves, "Contrastive loss") as axes:
        label = "chance, ln(1+K)"
        axes.plot(curves["step"], curves["chance"], color=GRAY, linestyle=DASHED, linewidth=1.6, label=label)
        _curve(axes, curves["step"], curves["loss"], BLUE, "InfoNCE")


def pretext(path: Path, curves: Table) -> None:
    """Draw how often the matching key beats all others (top-1) or all but four (top-5)."""
    with _over_steps(path, curves, "Pretext accuracy") as axes:
        _curve(axes, curves["step"], curves["top5"], ORANGE, "top-5")
        _curve(axes, curves["step"], curves["top1"], BLUE, "top-1")
        _percent(axes)
        axes.set_ylim(bottom=0)


def spread(path: Path, curves: Table, readings: Table) -> None:
    """Draw how widely queries and features point: 1 all over the sphere, 0 collapsed."""
    with picture(path, CHART) as figure:
        axes = figure.add_subplot(title="Spread: 1 everywhere, 0 one point", xlabel="epoch")
        _curve(axes, curves["epoch"], curves["feature_std"], BLUE, "queries")
        epochs, found = _taken(readings, "spread")
        if len(epochs):
            axes.plot(epochs, found, color=ORANGE, marker="o", markersize=5, label="features, validation")
            axes.legend(loc="best", fontsize=9.5)
        axes.axhline(COLLAPSED_SPREAD, color=GRAY, linestyle=DASHED, linewidth=1.2)
        _noted(axes, COLLAPSED_SPREAD, "queries below: collapsed")
        axes.set_ylim(0, 1.05)
        axes.margins(x=0.01)


def knn(path: Path, readings: Table) -> None:
    """Draw kNN accuracy on the validation split over the epochs."""
    with _over_epochs(path, readings, "knn_top1", "kNN on the validation split", BLUE, "{:.1%}") as (axes, _):
        _percent(axes)


def rank(path: Path, readings: Table) -> None:
    """Draw how many dimensions the features use over the epochs."""
    title = "Effective rank of the features"
    with _over_epochs(path, readings, "effective_rank", title, ORANGE, "{:.1f}") as (axes, found):
        axes.set_ylim(0, 1.3 * float(found.max()))


def leak(path: Path, readings: Table, limit: float) -> None:
    """Draw the batch-norm leak, fractions of 1; above `limit` the run warns."""
    points = {"epoch": readings["epoch"], "leak": 100 * readings["leak"]}
    with _over_epochs(path, points, "leak", "Batch-norm leak", BLUE) as (axes, found):
        axes.set_ylabel("points of pretext top-1")
        axes.axhline(0, color=MUTED, linewidth=1, zorder=1.5)
        axes.axhline(100 * limit, color=GRAY, linestyle=DASHED, linewidth=1.2, zorder=1.5)
        axes.set_ylim(1.1 * min(-5.0, float(found.min())), max(130 * limit, 1.1 * float(found.max())))
        _noted(axes, 100 * limit, "above: cheating")


def baselines(path: Path, scores: dict[str, LinearScores], images: int) -> None:
    """Draw linear and kNN accuracy of the three kinds of features, with their 95 % intervals."""
    with picture(path, CHART) as figure:
        axes = figure.add_subplot(title="Accuracy on the test split")
        width = 0.25
        for number, (kind, score) in enumerate(scores.items()):
            values = [score.linear_top1, score.knn_top1]
            ends = np.array([wilson(value, images) for value in values]).T
            bars = axes.bar(
                np.arange(2) + (number - 1) * width,
                values,
                width * 0.92,
                color=SOURCES[kind],
                label=NAMES[kind],
                yerr=np.abs(ends - values),
                error_kw={"ecolor": MUTED, "elinewidth": 1},
            )
            axes.bar_label(bars, labels=[f"{100 * value:.1f}" for value in values], padding=2, fontsize=9, color=INK)
        axes.set_xticks(range(2), ["linear classifier", "nearest neighbors"])
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, min(1.2, 1.28 * max(max(s.linear_top1, s.knn_top1) for s in scores.values())))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(ncols=3, loc="upper center", fontsize=8.5, columnspacing=1, handlelength=1, handletextpad=0.4)


def sweep(path: Path, sweep: Sweep) -> None:
    """Draw validation accuracy of every learning rate; the chosen one is ringed."""
    with picture(path, CHART) as figure:
        axes = figure.add_subplot(title="Learning rates of the classifier", xlabel="learning rate", xscale="log")
        for kind, (rates, values) in sweep.items():
            axes.plot(rates, values, color=SOURCES[kind], marker="o", markersize=4, label=NAMES[kind])
            best = int(np.nanargmax(values))
            axes.plot(rates[best], values[best], "o", markersize=11, markerfacecolor="none", color=SOURCES[kind])
        _percent(axes)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("validation top-1")
        axes.legend(loc="best", fontsize=9)


def confusion(path: Path, matrix: NDArray[np.float64], classes: Sequence[str]) -> None:
    """Draw the shares of each actual class (row) by given name (column); float, C x C."""
    named = len(classes) <= LABELLED_CLASSES
    side = min(PAGE, 3.2 + 0.44 * len(classes)) if named else 6.5
    with picture(path, (side, side * 0.92)) as figure:
        axes = figure.add_subplot(
            title="Confusion on the test split, % of each actual class", xlabel="predicted", ylabel="actual"
        )
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, interpolation="nearest" if named else "antialiased")
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if not named:
            axes.set_xticks([])
            axes.set_yticks([])
            return
        names = [one_line(name, 40) for name in classes]
        axes.set_xticks(
            range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9, color=INK
        )
        axes.set_yticks(range(len(classes)), names, fontsize=9, color=INK)
        for row, column in np.argwhere(matrix >= 0.005):
            share = matrix[row, column]
            color = "white" if share > 0.55 else INK if share > 0.1 else MUTED
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8.5, color=color)
        axes.set_xticks(np.arange(1, len(classes)) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, len(classes)) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)


def _curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: str, label: str) -> None:
    """Draw a curve: its points faintly, and their moving average if there are many."""
    window = len(y) // 40
    if window < 2:
        axes.plot(x, y, color=color, label=label)
        return
    axes.plot(x, y, color=color, alpha=0.25, linewidth=1)
    sums = np.cumsum(np.insert(y, 0, 0.0))
    low, high = np.arange(len(y)) - window, np.arange(len(y)) + window + 1
    low, high = np.maximum(low, 0), np.minimum(high, len(y))
    axes.plot(x, (sums[high] - sums[low]) / (high - low), color=color, label=label)


@contextmanager
def _over_steps(path: Path, curves: Table, title: str) -> Iterator[Axes]:
    """Give axes for curves; the time until the dictionary is full is shaded."""
    with picture(path, CHART) as figure:
        axes = figure.add_subplot(title=title, xlabel="step")
        filling = curves["step"][curves["queue_fill"] < 1]
        if len(filling):
            full = curves["step"][min(len(filling), len(curves["step"]) - 1)]
            axes.axvspan(0, float(full), color=FAINT, alpha=0.6, linewidth=0, label="dictionary not full yet")
        yield axes
        axes.legend(loc="best", fontsize=9.5, reverse=True)
        axes.margins(x=0.01)


@contextmanager
def _over_epochs(
    path: Path, readings: Table, name: str, title: str, color: str, last: str = ""
) -> Iterator[tuple[Axes, NDArray[np.float64]]]:
    """Draw the readings of one kind, the last one with its value; gives axes and values."""
    with picture(path, CHART) as figure:
        axes = figure.add_subplot(title=title, xlabel="epoch")
        epochs, found = _taken(readings, name)
        axes.plot(epochs, found, color=color, marker="o", markersize=5)
        if last:
            text, where = last.format(found[-1]).replace("%", " %"), (epochs[-1], found[-1])
            axes.annotate(
                text, where, (0, 8), textcoords="offset points", ha="right", color=INK, fontsize=10, weight="bold"
            )
        yield axes, found
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.06, y=0.18)


def _percent(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if high - low > 0.06 else 1))


def _taken(readings: Table, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose epochs and values of the readings that hold this one."""
    taken = ~np.isnan(readings[name])
    return readings["epoch"][taken], readings[name][taken]


def _noted(axes: Axes, y: float, text: str) -> None:
    """Write a word on a horizontal line, at its right end."""
    axes.annotate(
        text,
        (1, y),
        (-4, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        color=MUTED,
        fontsize=8.5,
    )
