"""Mean intersection over union of label maps, from a confusion matrix."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError

IGNORED = 255
"""The label of pixels that do not count."""


def confusion(truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int) -> NDArray[np.int64]:
    """Count pixels by true and predicted class. Counts of images and of processes add up.

    Args:
        truth: integers of any shape; 0 … C - 1, or 255 for pixels that do not count.
        predicted: integers of the same shape, 0 … C - 1.
        classes: C, at most 255.

    Returns:
        int64 [C, C]; rows are true classes.

    Raises:
        MocoError: a label is outside the range, the maps are of two shapes or not of integers, or
            there are too many classes.
    """
    if classes > IGNORED:
        raise MocoError(f"{classes} classes, but label maps of 8 bits tell {IGNORED} apart; merge some")
    if truth.shape != predicted.shape:
        raise MocoError(f"a label map is {truth.shape}, its prediction {predicted.shape}; predict at the map's size")
    pairs = _bytes(truth, "true", classes).ravel().astype(np.uint16) << 8
    pairs |= _bytes(predicted, "predicted", classes).ravel()
    # one pass over the pixels; the counts show labels that are not allowed
    table = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    table[IGNORED] = 0
    for side, counts in (("true", table.sum(axis=1)), ("predicted", table.sum(axis=0))):
        if counts[classes:].any():
            raise _no_class(side, classes + int(np.flatnonzero(counts[classes:])[0]), classes)
    return table[:classes, :classes].copy()


def _bytes(labels: NDArray[np.integer[Any]], side: str, classes: int) -> NDArray[np.uint8]:
    """Labels in 8 bits; others would wrap: 256 to class 0."""
    if labels.dtype == np.uint8:
        return labels.view(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise MocoError(
            f"a {side} label map is of {labels.dtype}, not of whole numbers; take the argmax of the classes"
        )
    outside = (labels < 0) | (labels > IGNORED)
    if outside.any():
        raise _no_class(side, int(labels[outside].min()), classes)
    return labels.astype(np.uint8)


def _no_class(side: str, label: int, classes: int) -> MocoError:
    return MocoError(
        f"a label map has the {side} label {label}, but there are {classes} classes (0 … {classes - 1}; 255 is ignored); give the set's class list"
    )


def mean_iou(confusion: NDArray[np.int64], classes: list[str]) -> dict[str, Any]:
    """Compute intersection over union by class, its mean, and pixel accuracy (VOC, Cityscapes).

    The IoU of a class is right pixels / (right + wrong + missed pixels), over all images together.
    A class that neither truth nor prediction has is undefined and left out of the mean (Cityscapes'
    rule; VOC has no such class).

    Args:
        confusion: int64 [C, C] of all images, rows are true classes.
        classes: C names.

    Returns:
        mIoU, pixel_accuracy, and under "per_class" IoU by class name.
    """
    right = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    iou = [int(a) / int(b) if b else None for a, b in zip(right, union, strict=True)]
    defined = [value for value in iou if value is not None]
    pixels = int(confusion.sum())
    return {
        "mIoU": float(np.mean(defined)) if defined else None,
        "pixel_accuracy": int(right.sum()) / pixels if pixels else None,
        "per_class": {name: {"IoU": value} for name, value in zip(classes, iou, strict=True)},
    }
