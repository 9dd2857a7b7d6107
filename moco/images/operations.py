"""The operations of a view after its crop: what is drawn for each, and how it is painted.

Distributions are those of MoCo's recipes (v1: paper, section 3.3; v2: Chen et al. 2020, section 3),
drawn for each image and view.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.config import Views
from moco.images.color import grayscale, jitter
from moco.images.decode import Pixels
from moco.images.draws import Draws

Chosen = NDArray[np.void]
"""Drawn views: an array of `VIEW`, with further fields for operations added to `OPERATIONS`."""


class Operation(NamedTuple):
    """One operation of a view."""

    fields: list[tuple[Any, ...]]
    """What is drawn: fields of a view, as numpy's dtype takes them."""
    choose: Callable[[Draws, Views, Chosen], None]
    """Draws numbers, under names of this operation's own, and sets the fields of all views."""
    paint: Callable[[Pixels, np.void], None]
    """Changes an image, uint8 S x S x 3, contiguous, as the fields of its view say."""


_ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.int32)
_BEFORE_JITTER, _AFTER_JITTER = 1, 2


def _choose_color(draws: Draws, settings: Views, chosen: Chosen) -> None:
    happens, order, brightness, contrast, saturation, hue = draws("jitter", 6)
    orders = _ORDERS[(order * len(_ORDERS)).astype(np.int64)]
    chosen["order"] = np.where(happens[..., None] < settings.jitter_p, orders, -1)
    strengths = (brightness, settings.brightness), (contrast, settings.contrast), (saturation, settings.saturation)
    for at, (number, strength) in enumerate(strengths):
        least = max(0.0, 1 - strength)
        chosen["factors"][..., at] = least + (1 + strength - least) * number
    chosen["factors"][..., 3] = settings.hue * (2 * hue - 1)
    (happens,) = draws("grayscale", 1)
    chosen["grayscale"] = np.where(
        happens < settings.grayscale_p, _BEFORE_JITTER if settings.order == "v1" else _AFTER_JITTER, 0
    )


def _paint_color(image: Pixels, view: np.void) -> None:
    if view["grayscale"] == _BEFORE_JITTER:
        grayscale(image)
    if view["order"][0] >= 0:
        jitter(image, view["order"], view["factors"])
    if view["grayscale"] == _AFTER_JITTER:
        grayscale(image)


def _choose_blur(draws: Draws, settings: Views, chosen: Chosen) -> None:
    happens, sigma = draws("blur", 2)
    sigma = settings.blur_sigma_min + (settings.blur_sigma_max - settings.blur_sigma_min) * sigma
    chosen["sigma"] = np.where(happens < settings.blur_p, sigma, 0)


def _paint_blur(image: Pixels, view: np.void) -> None:
    sigma = float(view["sigma"])
    if sigma > 0:
        side = 2 * int(np.ceil(3 * sigma)) + 1
        cv2.GaussianBlur(image, (side, side), sigma, dst=image, borderType=cv2.BORDER_REPLICATE)


def _choose_flip(draws: Draws, settings: Views, chosen: Chosen) -> None:
    (happens,) = draws("flip", 1)
    chosen["flip"] = happens < settings.flip_p


def _paint_flip(image: Pixels, view: np.void) -> None:
    if view["flip"]:
        cv2.flip(image, 1, dst=image)


COLOR = Operation([("order", "<i4", (4,)), ("factors", "<f4", (4,)), ("grayscale", "<i4")], _choose_color, _paint_color)
BLUR = Operation([("sigma", "<f4")], _choose_blur, _paint_blur)
FLIP = Operation([("flip", "<i4")], _choose_flip, _paint_flip)

FUSED = (COLOR, BLUR, FLIP)
"""What the compiled part paints too, in this order."""
OPERATIONS: tuple[Operation, ...] = FUSED
"""All operations, in order. Plain libraries paint those after the fused ones."""

_CROP = [(name, "<i4") for name in ("top", "left", "height", "width")]


def _fields(operations: Sequence[Operation]) -> np.dtype[np.void]:
    return np.dtype([*_CROP, *(field for operation in operations for field in operation.fields)])


VIEW = _fields(FUSED)
"""What is drawn for one view, as the compiled part takes it.

top, left, height, width: the crop, pixels of the whole image; order: the jitter's operations
(brightness 0, contrast 1, saturation 2, hue 3), or -1 first for none; factors: of each operation,
the hue's in turns; grayscale: 0 no, 1 before the jitter, 2 after it; sigma: of the blur, pixels, 0
for none; flip: 1 for left to right."""


def choose(draws: Draws, settings: Views) -> Chosen:
    """Draw all operations of some views; their crops are left 0.

    Returns:
        One element for each key of `draws`.
    """
    chosen = np.zeros(draws.keys.shape, _fields(OPERATIONS))
    for operation in OPERATIONS:
        operation.choose(draws, settings, chosen)
    return chosen


def fused(chosen: Chosen) -> Chosen:
    """Take the part of drawn views that the compiled part paints, `VIEW` [...]."""
    return chosen if chosen.dtype == VIEW else chosen[list(VIEW.names or ())].astype(VIEW)


def paint_operations(chosen: Chosen, out: Pixels, after_fused: bool = False) -> None:
    """Paint the operations of views in place, with plain libraries.

    Args:
        chosen: [V], drawn views.
        out: uint8, V x S x S x 3, their crops at full size.
        after_fused: the compiled part has painted its operations already.
    """
    for operation in OPERATIONS[len(FUSED) if after_fused else 0 :]:
        for view, image in zip(chosen, out, strict=True):
            operation.paint(image, view)
