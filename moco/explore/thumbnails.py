"""Small pictures of images, many in one WebP, as many as fit into a number of bytes."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from moco.images.decode import Pixels
from moco.images.views import resize

COLUMNS = 32
"""Tiles in a row of a sheet."""
A_SHEET = COLUMNS * 16
"""Tiles of a sheet: 2,048 x 1,024 pixels at a side of 64; a WebP may have 16,383 a side."""
QUALITY = 55
NUMBER = 5
"""Bytes that a tile takes beside its pixels, for the number of its image."""


@dataclass
class Sheets:
    """WebP files of tiles, `COLUMNS` a row, and the images on them.

    Attributes:
        side: pixels of a tile.
        files: the WebPs.
        shown: the images of each, in the order of its tiles.
        unread: number of images that could not be read.
    """

    side: int
    files: list[bytes] = field(default_factory=list)
    shown: list[list[int]] = field(default_factory=list)
    unread: int = 0


def sheets(read: Callable[[int], Pixels | None], order: Sequence[int], side: int, room: int) -> Sheets:
    """Make tiles of images, in their order, until their files would take more than `room` bytes.

    Args:
        read: gives an image, uint8 H x W x 3; None where there is none to read. Threads call it.
        order: the images, those that matter most first.
        side: pixels of a tile, a multiple of 16, the blocks that WebP compresses.
        room: bytes.
    """
    made = Sheets(side)
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(order), A_SHEET):
            chosen = order[start : start + A_SHEET]
            found = zip(chosen, threads.map(lambda i: _tile(read(i), side), chosen), strict=True)
            tiles = {i: tile for i, tile in found if tile is not None}
            there = list(tiles)
            made.unread += len(chosen) - len(there)
            fit, data = len(there), b""
            while fit and len(data := _webp([tiles[i] for i in there[:fit]], side)) + NUMBER * fit > room:
                fit = min(fit - 1, fit * room // (len(data) + NUMBER * fit)) // COLUMNS * COLUMNS  # whole rows
            if fit:
                made.files.append(data)
                made.shown.append(there[:fit])
                room -= len(data) + NUMBER * fit
            if fit < len(there):
                break
    return made


def _webp(tiles: list[Pixels], side: int) -> bytes:
    canvas = np.full((-(-len(tiles) // COLUMNS) * side, COLUMNS * side, 3), 236, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // COLUMNS * side, number % COLUMNS * side
        canvas[top : top + side, left : left + side] = tile
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()


def _tile(image: Pixels | None, side: int) -> Pixels | None:
    """Put the whole image on a gray square; a small one is not enlarged."""
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    out = np.full((side, side, 3), 236, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = resize(image, height, width)
    return out
