"""One composed scene: gray items, tinted, laid one over the other on a background."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from moco.images.decode import Pixels
from moco.transfer.scenes.backgrounds import background, color

Mask = NDArray[np.bool_]
Gray = NDArray[np.uint8]

ATTEMPTS = 20
"""Places tried for an item before it is left out."""
LEAST_VISIBLE = 0.15
"""Share of every item that is seen; an item that would cover more of another is put elsewhere."""

_BEYOND = 0.25  # share of an item's height or width that may lie beyond the border
_LEAN = 20.0  # degrees either way
_FAINT, _SPECK, _GAP = 6, 10, 6  # a gray level and two numbers of pixels, see `silhouette`

_NEIGHBORS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Scene:
    """A scene with its n items in the order of placement: later ones cover earlier ones.

    Attributes:
        image: uint8, H x W x 3.
        chosen: int64 [n], which of the items given.
        masks: bool, n x H x W: the pixels that are seen.
        boxes: int64, n x 4: x0, y0, x1, y1, from 0, half-open, tight around the mask.
        visible: float64 [n], share of the item's pixels that are seen; those beyond the border are
            not seen.
        occluded: bool [n], covered in part by later items.
        truncated: bool [n], cut by the border.
    """

    image: Pixels
    chosen: NDArray[np.int64]
    masks: Mask
    boxes: NDArray[np.int64]
    visible: NDArray[np.float64]
    occluded: Mask
    truncated: Mask


def compose(
    draw: Generator, items: Gray, size: tuple[int, int], count: int, sizes: tuple[float, float], clutter: float
) -> Scene:
    """Compose a scene.

    Args:
        draw: the random generator; the scene is a function of its state and the other arguments.
        items: uint8, N x S x S, zero outside the item.
        size: height and width, pixels.
        count: items to place; one for which `ATTEMPTS` places fail is left out.
        sizes: smallest and largest length of an item's longer side, pixels; its logarithm is drawn
            uniformly.
        clutter: of the background, 0 to 1.
    """
    height, width = size
    image = background(draw, height, width, clutter)
    owner = np.zeros(size, np.uint8)  # 0: background, k + 1: item k
    chosen: list[int] = []
    whole: list[int] = []  # pixels of each item, with those beyond the border
    inside: list[int] = []  # without these
    for _ in range(count):
        item = int(draw.integers(len(items)))
        length = math.exp(draw.uniform(math.log(sizes[0]), math.log(sizes[1])))
        gray, alpha = _posed(draw, items[item], length)
        solid = alpha >= 128
        place = _find_place(draw, owner, solid, whole)
        if place is None:
            continue
        there, part = place
        _paint(draw, image[there], gray[part], alpha[part])
        owner[there][solid[part]] = len(chosen) + 1
        chosen.append(item)
        whole.append(int(solid.sum()))
        inside.append(int(solid[part].sum()))
    masks = owner == np.arange(1, len(chosen) + 1, dtype=np.uint8)[:, None, None]
    seen = masks.sum(axis=(1, 2))
    return Scene(
        image=image,
        chosen=np.array(chosen, np.int64),
        masks=masks,
        boxes=np.array([_tight(mask) for mask in masks], np.int64).reshape(-1, 4),
        visible=seen / np.array(whole),
        occluded=seen < np.array(inside),
        truncated=np.array(inside) < np.array(whole),
    )


def silhouette(item: Gray) -> Mask:
    """Find the pixels of an item: the non-zero ones, without its faint rim and specks.

    Those above gray level 6, in pieces of at least 10 pixels, with gaps of at most 6 pixels filled.

    Args:
        item: uint8, S x S.

    Returns:
        bool, S x S; all non-zero pixels if nothing else is left.
    """
    _, pieces, about, _ = cv2.connectedComponentsWithStats((item > _FAINT).view(np.uint8), connectivity=8)
    large = about[:, cv2.CC_STAT_AREA] >= _SPECK
    large[0] = False  # what is not bright
    solid: Mask = large[pieces]
    if not solid.any():
        return item > 0
    _, gaps, about, _ = cv2.connectedComponentsWithStats((~solid).view(np.uint8), connectivity=4)
    return solid | (about[:, cv2.CC_STAT_AREA] <= _GAP)[gaps]


def _posed(draw: Generator, item: Gray, length: float) -> tuple[Gray, Gray]:
    """Cut out an item at its size, rotated and perhaps mirrored: its gray levels and its alpha."""
    mask = silhouette(item)
    x0, y0, x1, y1 = _tight(mask)
    mask, gray = mask[y0:y1, x0:x1], item[y0:y1, x0:x1]
    # The item's outermost pixels are mixed with black: they, and those beyond, take their
    # neighbors' level.
    inner = cv2.erode(mask.view(np.uint8), _NEIGHBORS, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    gray = np.where(inner, gray, cv2.dilate(gray, _NEIGHBORS)).astype(np.uint8)
    scale = length / max(mask.shape)
    angle = math.radians(draw.uniform(-_LEAN, _LEAN))
    across, along = scale * math.cos(angle), scale * math.sin(angle)
    mirrored = -1 if draw.random() < 0.5 else 1
    turn = np.array([[across * mirrored, -along], [along * mirrored, across]])
    height, width = mask.shape
    out = np.ceil(np.abs(turn) @ (width, height)).astype(int) + 2
    shift = (out - 1) / 2 - turn @ ((width - 1) / 2, (height - 1) / 2)
    warp = np.column_stack([turn, shift])
    size = (int(out[0]), int(out[1]))
    turned = cv2.warpAffine(gray, warp, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    # Blurred a little, so that the item's pixels do not show as steps when it is enlarged.
    soft = cv2.GaussianBlur(255 * mask.view(np.uint8), (3, 3), 0.55, borderType=cv2.BORDER_CONSTANT)
    alpha = cv2.warpAffine(soft, warp, size, flags=cv2.INTER_CUBIC)
    steep = np.float32(max(1.0, scale))  # the edge of an enlarged item stays one pixel wide
    alpha = np.clip((alpha.astype(np.float32) - 128) * steep + 128, 0, 255).astype(np.uint8)
    x0, y0, x1, y1 = _tight(alpha > 0)
    return turned[y0:y1, x0:x1].astype(np.uint8, copy=False), alpha[y0:y1, x0:x1]


def _find_place(
    draw: Generator, owner: NDArray[np.uint8], solid: Mask, whole: list[int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Find a place at which all items stay visible enough: its part of scene and patch."""
    seen = np.bincount(owner.ravel(), minlength=len(whole) + 1)[1:]
    least = LEAST_VISIBLE * np.array(whole)
    for _ in range(ATTEMPTS):
        (rows, part_rows), (columns, part_columns) = (
            _stretch(draw, length, room) for length, room in zip(solid.shape, owner.shape, strict=True)
        )
        there, part = (rows, columns), (part_rows, part_columns)
        covered = np.bincount(owner[there][solid[part]], minlength=len(whole) + 1)[1:]
        if (seen - covered >= least).all() and solid[part].sum() > LEAST_VISIBLE * solid.sum():
            return there, part
    return None


def _stretch(draw: Generator, length: int, room: int) -> tuple[slice, slice]:
    """Find the range that a patch covers along one axis, and that part of the patch."""
    beyond = int(_BEYOND * length)
    start = int(draw.integers(-beyond, max(room - length + beyond, -beyond) + 1))
    low, high = max(start, 0), min(start + length, room)
    return slice(low, high), slice(low - start, high - start)


def _paint(draw: Generator, image: Pixels, gray: Gray, alpha: Gray) -> None:
    """Lay a patch over a part of the scene, its gray levels as dark to light colors."""
    dark, light = color(draw, (0.1, 0.9), (0, 0.4)), color(draw, (0, 0.75), (0.5, 1))
    weight = (alpha.astype(np.float32) / 255)[:, :, None]
    paint = dark + (light - dark) * (gray.astype(np.float32) / 255)[:, :, None]
    image[:] = np.rint(image + (paint - image) * weight).astype(np.uint8)


def _tight(mask: Mask) -> tuple[int, int, int, int]:
    """Give the box x0, y0, x1, y1 around what is true, half-open."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
