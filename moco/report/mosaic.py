"""Pictures of a data set: a mosaic of its images, and one of pairs that may be duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moco.drawing import FAINT, INK, MUTED, PAGE, bare, picture
from moco.images.decode import Pixels
from moco.images.views import resize

SIDE = 96
"""Pixels of a tile."""
TILES_A_ROW = 12
PAIRS_A_ROW = 10


@dataclass(frozen=True)
class ShownPair:
    """Two images, and what is written under them."""

    first: Pixels
    second: Pixels
    note: str


def tiles(path: Path, rows: Sequence[tuple[str, Sequence[Pixels]]]) -> None:
    """Draw titled blocks of images.

    Args:
        path: of the PNG.
        rows: title and images (uint8 H x W x 3) of each block.
    """
    blocks = [(title, [[_tile(image)] for image in images], [""] * len(images)) for title, images in rows if images]
    _draw(path, blocks, TILES_A_ROW, 1)


def pairs(path: Path, rows: Sequence[tuple[str, Sequence[ShownPair]]]) -> None:
    """Draw titled blocks of pairs, one image above the other, with their notes.

    Args:
        path: of the PNG.
        rows: title and pairs of each block.
    """
    blocks = [
        (title, [[_tile(pair.first), _tile(pair.second)] for pair in shown], [pair.note for pair in shown])
        for title, shown in rows
        if shown
    ]
    _draw(path, blocks, PAIRS_A_ROW, 2)


def _draw(path: Path, blocks: Sequence[tuple[str, list[list[Pixels]], list[str]]], columns: int, high: int) -> None:
    """Draw columns of tiles, `columns` in a line; a line with notes has room for them."""
    title, note = 0.45, 0.32 if any(any(notes) for _, _, notes in blocks) else 0.0
    lines = sum(-(-len(shown) // columns) for _, shown, _ in blocks)
    height = len(blocks) * title + lines * (high + note)
    with picture(path, (PAGE, PAGE * height / columns)) as figure:
        axes = bare(figure.add_subplot())
        top = 0.0
        for heading, shown, notes in blocks:
            axes.text(0.04, top + title / 2, heading, color=MUTED, weight="bold", fontsize=9, va="center")
            top += title
            for number, column in enumerate(shown):
                left, at = number % columns, top + number // columns * (high + note)
                for row, image in enumerate(column):
                    box = (left + 0.03, left + 0.97, at + row + 0.97, at + row + 0.03)
                    axes.imshow(image, extent=box, aspect="auto", interpolation="nearest")
                axes.text(left + 0.5, at + high + 0.12, notes[number], ha="center", va="center", fontsize=7, color=INK)
            top += -(-len(shown) // columns) * (high + note)
        axes.set(xlim=(0, columns), ylim=(height, 0), aspect="equal")
        figure.patch.set_edgecolor(FAINT)


def _tile(image: Pixels) -> Pixels:
    """Put the whole image on a gray square of `SIDE` pixels; small ones are enlarged."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    out = np.full((SIDE, SIDE, 3), 236, dtype=np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    out[top : top + height, left : left + width] = resize(image, height, width)
    out[[0, -1]] = out[:, [0, -1]] = 215  # a white image on a white page has an edge
    return out
