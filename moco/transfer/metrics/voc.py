"""PASCAL VOC's average precision of boxes, as its development kit computes it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.transfer.data.annotations import AnnotatedSet, Detections

IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
"""Overlaps at which a detection counts as right; VOC's own is the first, 0.5."""


def voc_ap(truth: AnnotatedSet, found: Detections, *, eleven_points: bool = False) -> dict[str, Any]:
    """Compute average precision as VOC's kit does (Everingham et al., 2010, section 4.2).

    Detections of a class are taken by falling score, equal ones in their order. Each is compared
    with the object of its class and image that it overlaps most (of equal ones the first), matched
    already or not. Overlap of at least the threshold is right the first time and wrong every
    further time; with a difficult object it is neither; less overlap is wrong. Difficult objects do
    not count as missed. Overlap is intersection over union; the kit's inclusive pixel coordinates
    (width xmax - xmin + 1) are the plain widths of our half-open boxes.

    A class without an object that is not difficult has no AP (the kit divides by zero there) and is
    left out of means.

    Args:
        truth: the annotated images; `ignored` marks difficult objects.
        found: detections in them.
        eleven_points: mean of the best precision at recall of at least 0, 0.1 … 1, as VOC did until
            2009; else the area under the precision-recall curve made falling, as since 2010.
            Recalls are compared exactly: in the kit, as in Python, 3 * 0.1 is a little more than
            0.3, which a recall of 3 in 10 misses.

    Returns:
        AP (mean over IoU 0.5, 0.55 … 0.95), AP50, AP75 as means over classes; under "per_class" the
        same by class name.
    """
    average = _eleven_points if eleven_points else _area
    image = np.repeat(np.arange(len(truth)), np.diff(truth.first))
    table = np.full((len(truth.classes), len(IOU_THRESHOLDS)), np.nan)
    for c in range(len(truth.classes)):
        objects, rows = np.flatnonzero(truth.labels == c), np.flatnonzero(found.labels == c)
        positives = int((~truth.ignored[objects]).sum())
        if not positives:
            continue
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        overlap, nearest = _best_overlaps(found.boxes[rows], found.image[rows], truth.boxes[objects], image[objects])
        difficult = truth.ignored[objects][nearest]
        for t, threshold in enumerate(IOU_THRESHOLDS):
            hits = np.flatnonzero((overlap >= threshold) & ~difficult)
            right = np.zeros(len(rows), bool)
            right[hits[np.unique(nearest[hits], return_index=True)[1]]] = True
            counted = ~((overlap >= threshold) & difficult)
            table[c, t] = average(right[counted], positives)
    return {
        **_summary(table[~np.isnan(table[:, 0])]),
        "per_class": {
            name: _summary(row[~np.isnan(row[:, 0])]) for name, row in zip(truth.classes, table[:, None], strict=True)
        },
    }


def _summary(table: NDArray[np.float64]) -> dict[str, float | None]:
    """Of rows of AP at each threshold."""
    if not len(table):
        return {"AP": None, "AP50": None, "AP75": None}
    return {"AP": float(table.mean()), "AP50": float(table[:, 0].mean()), "AP75": float(table[:, 5].mean())}


def _best_overlaps(
    boxes: NDArray[np.float32], image: NDArray[np.int64], objects: NDArray[np.float32], object_image: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the largest IoU of each of D boxes with an object of its image, and that object.

    Objects lie in the order of their images. A box in an image without objects has overlap 0, with
    object 0.
    """
    start = np.searchsorted(object_image, image)
    count = np.searchsorted(object_image, image, side="right") - start
    overlap, nearest = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    with_objects = np.flatnonzero(count)
    if not len(with_objects):
        return overlap, nearest
    count = count[with_objects]
    begins = np.cumsum(count) - count  # of each box's pairs among all pairs
    there = np.arange(count.sum()) + np.repeat(start[with_objects] - begins, count)
    here = np.repeat(with_objects, count)
    a, b = boxes.astype(np.float64)[here], objects.astype(np.float64)[there]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared
    iou = shared / union
    overlap[with_objects] = np.maximum.reduceat(iou, begins)
    best = np.flatnonzero(iou == overlap[here])
    firsts = np.unique(here[best], return_index=True)[1]
    nearest[here[best[firsts]]] = there[best[firsts]]
    return overlap, nearest


def _area(right: NDArray[np.bool_], positives: int) -> float:
    """Area under the curve whose precision is the best at its recall or beyond."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(falling[right].sum() / positives)


def _eleven_points(right: NDArray[np.bool_], positives: int) -> float:
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = [precision[10 * hits >= tenths * positives].max(initial=0.0) for tenths in range(11)]
    return float(np.mean(best))
