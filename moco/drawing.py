"""How the report's pictures look: one palette, one set of type sizes, the same bytes each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure

INK, MUTED, FAINT, PAPER = "#1d2733", "#66727f", "#e3e8ec", "#ffffff"
BLUE, ORANGE, GRAY, GREEN, RED = "#1f6feb", "#e8871e", "#9aa5b1", "#1a9850", "#d73027"
SOURCES = {"moco": BLUE, "random": ORANGE, "pixels": GRAY}
NAMES = {"moco": "MoCo", "random": "random initialization", "pixels": "raw pixels"}

CHART = (5.4, 3.5)
"""Width and height in inches of a chart that shares its row with another."""
PAGE = 8.4
"""Width in inches of a picture that fills the page."""

_TEN = ("#1f6feb", "#e8871e", "#1a9850", "#d73027", "#8250df", "#8c5a2b", "#e377c2", "#5b6672", "#a8a116", "#12a5b8")

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a $ in the name of a class is a $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.hashsalt": "moco",
}


@contextmanager
def picture(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure to draw on, saved as PNG when the block ends: the same drawing, the same bytes.

    The figure needs no window system and no global state, so this also works in threads.

    Args:
        path: of the PNG.
        size: inches; 160 pixels each.
    """
    with mpl.rc_context(_RC):
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Software": None})


def class_colors(count: int) -> list[str]:
    """Give each class a color: ten that differ clearly, beyond that around the color circle."""
    if count <= len(_TEN):
        return list(_TEN[:count])
    hues = np.linspace(0, 1, count, endpoint=False)
    shades = [(hue, 0.75, 0.85 if number % 2 else 0.6) for number, hue in enumerate(hues)]
    return [to_hex(tuple(hsv_to_rgb(shade))) for shade in shades]


def bare(axes: Axes) -> Axes:
    """Remove axes, ticks and grid, where only a picture is shown."""
    axes.set_axis_off()
    return axes
