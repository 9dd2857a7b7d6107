"""The pictures made of images: views, nearest neighbors, the map of the features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from moco.drawing import BLUE, FAINT, GREEN, INK, MUTED, PAGE, RED, bare, class_colors, picture
from moco.images.decode import Pixels
from moco.images.views import center_view, resize
from moco.text import one_line

SIDE = 160
"""Pixels of an image's longer side in a picture; larger ones are reduced to it."""
VIEWS_A_ROW = 8
NAMED_CLASSES = 12
"""Up to this many classes, the map writes their names where their images lie."""
_THUMBNAILS_A_SIDE = 18


@dataclass(frozen=True)
class Shown:
    """An image with what is written under it.

    Attributes:
        image: uint8, H x W x 3.
        name: its class, or its file where it has no label.
        similarity: cosine to the query; None for the query itself.
        same: whether it is of the query's class; None where that is not known.
    """

    image: Pixels
    name: str
    similarity: float | None = None
    same: bool | None = None


def views(path: Path, triples: Sequence[tuple[Pixels, Pixels, Pixels]]) -> None:
    """Draw columns of an image as it is, its query view and its key view.

    Args:
        path: of the PNG.
        triples: (image H x W x 3, query S x S x 3, key S x S x 3), uint8.
    """
    columns = min(len(triples), VIEWS_A_ROW)
    blocks = -(-len(triples) // VIEWS_A_ROW)
    width, height = columns + 0.75, blocks * 3.25 - 0.2
    with picture(path, (PAGE, PAGE * height / width)) as figure:
        axes = _canvas(figure.add_subplot(), (-0.75, columns), (height, 0))
        for number, triple in enumerate(triples):
            column, top = number % columns, number // columns * 3.25
            for row, image in enumerate(triple):
                _place(axes, image, column, top + row)
        for block in range(blocks):
            for row, (word, color) in enumerate((("image", MUTED), ("query", BLUE), ("key", BLUE))):
                where = block * 3.25 + row + 0.5
                axes.text(-0.1, where, word, ha="right", va="center", color=color, weight="bold", fontsize=11)


def neighbors(path: Path, rows: Sequence[tuple[Shown, Sequence[Shown]]], query_title: str, gallery_title: str) -> None:
    """Draw rows of a query and its neighbors, framed green or red where the classes are known.

    Args:
        path: of the PNG.
        rows: queries, each with its neighbors, the nearest first.
        query_title: written above the queries.
        gallery_title: written above the neighbors.
    """
    columns, gap, step = max(len(found) for _, found in rows), 0.35, 1.34
    width, height = 1 + gap + columns, len(rows) * step + 0.25
    inches = max(PAGE, 0.8 * width)
    with picture(path, (inches, inches * height / width)) as figure:
        axes = _canvas(figure.add_subplot(), (0, width), (height - 0.25, -0.25))
        small = min(9.0, 9.3 * inches / width)
        axes.text(0.5, -0.08, query_title, ha="center", color=MUTED, weight="bold", fontsize=small + 1)
        axes.text(1 + gap + 0.05, -0.08, gallery_title, color=MUTED, weight="bold", fontsize=small + 1)
        for number, (query, found) in enumerate(rows):
            top = number * step
            for column, shown in enumerate((query, *found)):
                left = column + (gap if column else 0)
                frame = None if shown.same is None else GREEN if shown.same else RED
                _place(axes, shown.image, left, top, frame)
                color = INK if shown.same is not False else RED
                axes.text(left + 0.5, top + 1.0, _short(shown.name), ha="center", va="top", fontsize=small, color=color)
                if shown.similarity is not None:
                    note = f"{shown.similarity:.2f}"
                    axes.text(left + 0.5, top + 1.16, note, ha="center", va="top", fontsize=small - 0.5, color=MUTED)


def map_dots(path: Path, points: NDArray[np.float32], labels: NDArray[np.int32], classes: Sequence[str]) -> None:
    """Draw the map as dots, colored by class; gray where an image has no label.

    Args:
        path: of the PNG.
        points: float32, N x 2, in [0, 1].
        labels: int32 [N], -1 for none.
        classes: names.
    """
    with picture(path, (5.4, 5.6)) as figure:
        axes = _canvas(
            figure.add_subplot(title="Colored by class" if (labels >= 0).any() else "One dot an image"), (0, 1), (0, 1)
        )
        palette = np.array([*class_colors(max(len(classes), 1)), "#9aa5b1"])
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=max(3.0, 9000 / (len(points) + 500)),
            c=palette[labels],
            linewidths=0,
            alpha=0.75,
        )
        if len(classes) > NAMED_CLASSES:
            return
        for label in np.unique(labels[labels >= 0]):
            x, y = _thick_of(points[labels == label])
            color = palette[label]
            name = axes.text(
                x, y, one_line(classes[label], 40), ha="center", va="center", fontsize=9.5, weight="bold", color=color
            )
            name.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])


def map_images(path: Path, points: NDArray[np.float32], images: Sequence[Pixels], chosen: NDArray[np.int64]) -> None:
    """Draw the same map with one image in each cell of a grid.

    Args:
        path: of the PNG.
        points: float32, N x 2, in [0, 1], of all images in the map.
        images: the images to draw, uint8 H x W x 3.
        chosen: int64, their rows in `points`, from `one_a_cell`.
    """
    with picture(path, (5.4, 5.6)) as figure:
        axes = _canvas(figure.add_subplot(title="The images there"), (0, 1), (0, 1))
        axes.scatter(points[:, 0], points[:, 1], s=2, c=FAINT, linewidths=0)
        cell = 1 / _THUMBNAILS_A_SIDE
        for row, image in zip(chosen, images, strict=True):
            left, bottom = np.floor(np.clip(points[row], 0, 1 - 1e-6) / cell) * cell
            extent = (left + 0.04 * cell, left + 0.96 * cell, bottom + 0.04 * cell, bottom + 0.96 * cell)
            small = center_view(image, min(64, *image.shape[:2]), 1.0)
            axes.imshow(small, extent=extent, aspect="auto", zorder=2)
        axes.set(xlim=(0, 1), ylim=(0, 1))


def one_a_cell(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """Choose the row of the point nearest the middle of each cell of the grid; int64, rising."""
    cells = np.floor(np.clip(points, 0, 1 - 1e-6) * _THUMBNAILS_A_SIDE)
    distance = np.linalg.norm(points * _THUMBNAILS_A_SIDE - cells - 0.5, axis=1)
    number = cells[:, 0] * _THUMBNAILS_A_SIDE + cells[:, 1]
    order = np.lexsort((distance, number))
    first = np.unique(number[order], return_index=True)[1]
    return np.sort(order[first])


def _thick_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find where a class is densest: the point whose nearest third of the others is nearest."""
    some = points[:: -(-len(points) // 1000)]
    distances = np.linalg.norm(some[:, None] - some[None], axis=2)
    return some[np.argmin(np.quantile(distances, 0.3, axis=1))]


def _canvas(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    axes.set(xlim=x, ylim=y, aspect="equal")
    return bare(axes)


def _place(axes: Axes, image: Pixels, left: float, top: float, frame: str | None = None) -> None:
    """Draw an image into the unit cell whose upper left corner is given."""
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(_whole(image), extent=(left + 0.04, left + 0.96, top + 0.96, top + 0.04), aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
    color, width = (frame, 2.2) if frame else (FAINT, 0.8)
    axes.add_patch(Rectangle((left + 0.04, top + 0.04), 0.92, 0.92, fill=False, edgecolor=color, linewidth=width))


def _whole(image: Pixels) -> Pixels:
    """Put the whole image on a white square, reduced if it is larger than `SIDE`."""
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    out = np.full((max(height, width),) * 2 + (3,), 255, dtype=np.uint8)
    top, left = (len(out) - height) // 2, (len(out) - width) // 2
    out[top : top + height, left : left + width] = resize(image, height, width)
    return out


def _short(name: str) -> str:
    return one_line(name, 12)
