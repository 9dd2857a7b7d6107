"""LVIS's federated average precision: a class counts only where it was looked for."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.results import boxes_as_written
from moco.transfer.metrics.coco import average_precisions, curves_of, mean_of, per_class

MAX_DETECTIONS = 300
"""An image, of all classes together."""


def lvis_ap(truth: AnnotatedSet, found: Detections, kind: Literal["bbox", "segm"] = "segm") -> dict[str, Any]:
    """Compute average precision as LVIS v1 defines it (Gupta et al., 2019, section 2.2).

    An image's 300 best detections count, except those of a class that the image neither shows nor
    is known not to show (its negatives). If a class's instances are not all annotated in the image,
    its detections without a match are neither right nor wrong. As in lvis-api, objects and
    detections without an area are left out and crowds are objects like others. The rest is as in
    COCO.

    Args:
        truth: the annotated images, with `federated`.
        found: detections in them; for "segm" with segments.
        kind: what overlaps: boxes or masks.

    Returns:
        AP (mean over IoU 0.5 … 0.95), AP50, AP75, APs, APm, APl, those of rare, common and frequent
        classes APr, APc, APf, and AR, ARs, ARm, ARl. Under "per_class" AP, AP50 and AP75 by class
        name.

    Raises:
        MocoError: the set is not federated, or segments are missing.
    """
    if truth.federated is None:
        raise MocoError(
            f"{truth.name}: no frequencies and negatives, which AP of LVIS needs; read it with read_lvis, or evaluate it as COCO"
        )
    frequency = np.array(truth.federated.frequency)
    truth = replace(truth, ignored=np.zeros_like(truth.ignored)).with_instances(truth.areas > 0)
    found = _with_area(best_of_each_image(found, MAX_DETECTIONS), kind)
    curves = curves_of(truth, looked_for(truth, found), kind, [MAX_DETECTIONS])
    return {
        **average_precisions(curves, ("s", "m", "l")),
        **{f"AP{group}": mean_of(curves.precision[:, :, frequency == group, 0]) for group in "rcf"},
        **{f"AR{size}": mean_of(curves.recall[:, :, a, 0]) for a, size in enumerate(("", "s", "m", "l"))},
        "per_class": per_class(curves, truth.classes),
    }


def best_of_each_image(found: Detections, most: int) -> Detections:
    """Keep `most` detections an image by score; of equal ones the first."""
    order = np.lexsort((-found.scores, found.image))
    ranked = found.image[order]
    rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return _chosen(found, np.sort(order[rank < most]))


def looked_for(truth: AnnotatedSet, found: Detections) -> Detections:
    """Keep the detections of classes that their image shows or is known not to show.

    The evaluator would leave the others out too, but they are most of millions.
    """
    assert truth.federated is not None
    classes = len(truth.classes)
    image = np.repeat(np.arange(len(truth)), np.diff(truth.first))
    shown = image * classes + truth.labels
    absent = [n * classes + c for n, labels in enumerate(truth.federated.negative) for c in labels]
    known = np.concatenate([shown, np.array(absent, np.int64)])
    return _chosen(found, np.flatnonzero(np.isin(found.image * classes + found.labels, known)))


def _with_area(found: Detections, kind: Literal["bbox", "segm"]) -> Detections:
    from faster_coco_eval.core import mask

    areas = boxes_as_written(found.boxes)[:, 2:].prod(axis=1)
    if kind == "segm" and found.segments:
        areas = mask.area(found.segments)
    return _chosen(found, np.flatnonzero(areas > 0))


def _chosen(found: Detections, rows: NDArray[np.int64]) -> Detections:
    return replace(
        found,
        image=found.image[rows],
        boxes=found.boxes[rows],
        scores=found.scores[rows],
        labels=found.labels[rows],
        segments=None if found.segments is None else [found.segments[row] for row in rows.tolist()],
        keypoints=None,
    )
