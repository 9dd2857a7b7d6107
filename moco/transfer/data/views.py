"""Training views of annotated images, uint8, as a function of drawn numbers.

Numbers are drawn by `moco.images.draws.Draws`, keyed by (seed, epoch, sample), so that workers,
processes and restarts change nothing. Coordinates are in pixels with the edges of the image at 0
and W; resizing multiplies them, and mirroring takes x to W - x.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.images.decode import Pixels
from moco.images.draws import Uniforms
from moco.images.views import resize
from moco.transfer.schedules import BoxSizes, PixelSizes

PADDING = (124, 116, 104)
"""ImageNet's mean color, which lies beyond the edges of a crop that is larger than its image."""
IGNORED = 255

DRAWS = 5
"""Numbers drawn for one image."""
_SIZE, _FLIP, _SCALE, _TOP, _LEFT = range(DRAWS)


@dataclass(frozen=True)
class Instances:
    """The objects of one image.

    Attributes:
        boxes: float32 [M, 4] x0, y0, x1, y1.
        labels: int64 [M], whatever they count from.
        masks: uint8 [M, H, W], 0 or 1.
        keypoints: float32 [M, K, 3] x, y, visibility. The pixel in the corner is at 0.5, 0.5; in
            COCO's files at 0, 0.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8] | None = None
    keypoints: NDArray[np.float32] | None = None


def boxes_view(
    image: Pixels,
    found: Instances,
    u: Uniforms,
    sizes: BoxSizes,
    flip_pairs: Sequence[tuple[int, int]] = (),
    masks: Iterable[NDArray[np.uint8]] | None = None,
) -> tuple[Pixels, Instances]:
    """Make the training view for detectors: one of the short sides, mirrored or not.

    Args:
        image: uint8 H x W x 3.
        found: what is in it.
        u: float64 [DRAWS] in [0, 1).
        sizes: of the schedule.
        flip_pairs: keypoints that change places in a mirror.
        masks: of the objects, uint8 H x W each, which come one at a time: together they may be
            larger than the memory.

    Returns:
        uint8 H' x W' x 3, and what is in it.
    """
    short = sizes.short_sides[int(u[_SIZE] * len(sizes.short_sides))]
    size = fitted(image.shape[:2], short, sizes.long_side)
    image, found = resized(image, found, *size)
    if masks is not None:
        found = replace(found, masks=_all_nearest(masks, *size))
    return mirrored(image, found, flip_pairs) if u[_FLIP] < 0.5 else (image, found)


def fitted(size: tuple[int, ...], short_side: int, long_side: int) -> tuple[int, int]:
    """Give the height and width of an image scaled to the tighter of two limits."""
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def resized(image: Pixels, found: Instances, height: int, width: int) -> tuple[Pixels, Instances]:
    """Resize image, boxes, masks (nearest) and keypoints."""
    factors = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
    masks, keypoints = found.masks, found.keypoints
    if masks is not None:
        masks = _all_nearest(masks, height, width)
    if keypoints is not None:
        keypoints = np.concatenate([keypoints[..., :2] * factors, keypoints[..., 2:]], axis=2)
    boxes = found.boxes * np.tile(factors, 2)
    return resize(image, height, width), replace(found, boxes=boxes, masks=masks, keypoints=keypoints)


def mirrored(image: Pixels, found: Instances, flip_pairs: Sequence[tuple[int, int]] = ()) -> tuple[Pixels, Instances]:
    """Mirror left to right; keypoints of a pair change places, so that a left hand stays one."""
    width = image.shape[1]
    boxes = found.boxes.copy()
    boxes[:, [0, 2]] = width - found.boxes[:, [2, 0]]
    masks, keypoints = found.masks, found.keypoints
    if masks is not None:
        masks = masks[:, :, ::-1]
    if keypoints is not None:
        partner = np.arange(keypoints.shape[1])
        for a, b in flip_pairs:
            partner[a], partner[b] = b, a
        keypoints = keypoints[:, partner]  # a copy
        keypoints[..., 0] = width - keypoints[..., 0]
    return _flipped(image), replace(found, boxes=boxes, masks=masks, keypoints=keypoints)


def pixels_view(
    image: Pixels, label_map: NDArray[np.uint8], u: Uniforms, sizes: PixelSizes
) -> tuple[Pixels, NDArray[np.uint8]]:
    """Make the training view for semantic segmentation: random scale, crop and flip.

    Only the part of the image that the crop shows is resized. A crop larger than the resized image
    is filled with `PADDING`, and its label map with `IGNORED`, on the right and below.

    Args:
        image: uint8 H x W x 3.
        label_map: uint8 H x W.
        u: float64 [DRAWS] in [0, 1).
        sizes: crop and scales.

    Returns:
        uint8 S x S x 3 and uint8 S x S.
    """
    smallest, largest = sizes.scales
    scale, side = smallest + (largest - smallest) * u[_SCALE], sizes.crop_size
    (top, bottom), (left, right) = (
        _window(length, side / scale, number) for length, number in zip(image.shape[:2], u[[_TOP, _LEFT]], strict=True)
    )
    height, width = (max(1, min(side, round(length * scale))) for length in (bottom - top, right - left))
    view = np.empty((side, side, 3), np.uint8)
    view[:] = PADDING
    view[:height, :width] = resize(image[top:bottom, left:right], height, width)
    labels = np.full((side, side), IGNORED, np.uint8)
    labels[:height, :width] = _nearest(label_map[top:bottom, left:right], height, width)
    if u[_FLIP] < 0.5:
        return _flipped(view), _flipped(labels)
    return view, labels


def _window(length: int, wanted: float, number: float) -> tuple[int, int]:
    """First pixel and end of a random window of `wanted` pixels, or of all if there are fewer."""
    taken = min(length, max(1, round(wanted)))
    first = int(number * (length - taken + 1))
    return first, first + taken


def _all_nearest(masks: Iterable[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    resized = [_nearest(mask, height, width) for mask in masks]
    return np.stack(resized) if resized else np.zeros((0, height, width), np.uint8)


def _nearest(labels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    found = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(found, np.uint8)


def _flipped(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.flip(image, 1), np.uint8)
