"""COCO's average precision of boxes, masks and keypoints, by faster-coco-eval's compiled evaluator.

Its figures equal pycocotools'. It gets ground truth and detections from memory.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.coco_entries import order_of
from moco.transfer.data.problems import image_of_each
from moco.transfer.data.results import Kind, boxes_as_written, keypoints_as_written
from moco.transfer.data.segments import present

COCO_SIGMAS = tuple(number / 1000 for number in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89))
"""Spread of human annotators at COCO's 17 keypoints of a person, nose to ankles, as a share of the
object's scale."""

PAIRS_AT_ONCE = 20_000
"""Images x classes in one call, about. The evaluator keeps a Python object for each pair, and LVIS
would have 24 million of them. A call for a few classes gets only the images in which they occur."""


@dataclass(frozen=True)
class Curves:
    """Precision and recall of every class; -1 for a class without ground truth.

    Attributes:
        precision: [T, R, C, A]: IoU 0.5, 0.55 … 0.95; recall 0, 0.01 … 1; class; size all, small,
            medium, large (keypoints: all, medium, large). With the largest
            number of detections an image.
        recall: [T, C, A, M]: the largest recall; M as in `max_detections`.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def coco_ap(truth: AnnotatedSet, found: Detections, kind: Kind = "bbox") -> dict[str, Any]:
    """Compute average precision and recall as COCO defines them (Lin et al., 2014).

    At most 100 detections of a class count in an image (keypoints: 20), the best by score. A
    detection inside a crowd region, or on a person without keypoints, is neither right nor wrong.
    Small is below 32 x 32 pixels, large above 96 x 96; the size of a detection is that of its box,
    of its mask, or of its keypoints' extent. Classes without ground truth are left out of the
    means. Of equal scores in several images the lowest image id comes first; a score that is not a
    number comes last. An object whose id is 0 is never found: pycocotools takes 0 for no match.

    Args:
        truth: the annotated images.
        found: detections in them; for "segm" with segments, for "keypoints" with keypoints.
        kind: what overlaps: boxes, masks, or keypoints (object keypoint similarity, with COCO's
            spreads where there are 17 keypoints, else with their mean, 0.067, for each).

    Returns:
        AP (mean over IoU 0.5 … 0.95), AP50, AP75, APs, APm, APl; AR1, AR10, AR100, ARs, ARm, ARl;
        for keypoints AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl. Under "per_class" AP, AP50
        and AP75 by class name.

    Raises:
        MocoError: the set or the detections lack what `kind` compares, or it is not finite.
    """
    truth = replace(truth, federated=None)  # COCO's rules, for LVIS's annotations too
    if kind == "keypoints":
        curves = curves_of(truth, found, kind, [20])
        recall = curves.recall[..., 0]
        return {
            **average_precisions(curves, ("m", "l")),
            "AR": mean_of(recall[:, :, 0]),
            "AR50": mean_of(recall[0, :, 0]),
            "AR75": mean_of(recall[5, :, 0]),
            "ARm": mean_of(recall[:, :, 1]),
            "ARl": mean_of(recall[:, :, 2]),
            "per_class": per_class(curves, truth.classes),
        }
    curves = curves_of(truth, found, kind, [1, 10, 100])
    return {
        **average_precisions(curves, ("s", "m", "l")),
        **{f"AR{most}": mean_of(curves.recall[:, :, 0, m]) for m, most in enumerate((1, 10, 100))},
        **{f"AR{size}": mean_of(curves.recall[:, :, a, 2]) for a, size in enumerate("sml", start=1)},
        "per_class": per_class(curves, truth.classes),
    }


def average_precisions(curves: Curves, sizes: tuple[str, ...]) -> dict[str, float | None]:
    """Average to AP, AP50, AP75 and the AP of the sizes, which follow "all" in the curves."""
    precision = curves.precision
    return {
        "AP": mean_of(precision[:, :, :, 0]),
        "AP50": mean_of(precision[0, :, :, 0]),
        "AP75": mean_of(precision[5, :, :, 0]),
        **{f"AP{size}": mean_of(precision[:, :, :, a]) for a, size in enumerate(sizes, start=1)},
    }


def per_class(curves: Curves, classes: list[str]) -> dict[str, dict[str, float | None]]:
    """Average to AP, AP50 and AP75 of each class."""
    return {
        name: {
            "AP": mean_of(curves.precision[:, :, c, 0]),
            "AP50": mean_of(curves.precision[0, :, c, 0]),
            "AP75": mean_of(curves.precision[5, :, c, 0]),
        }
        for c, name in enumerate(classes)
    }


def mean_of(values: NDArray[np.float64]) -> float | None:
    """Average the values that are defined (not -1); None if none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def curves_of(truth: AnnotatedSet, found: Detections, kind: Kind, max_detections: list[int]) -> Curves:
    """Match detections with the ground truth class by class and trace precision over recall.

    In a federated set, detections of a class in an image count by LVIS's rules.

    Args:
        truth: the annotated images.
        found: detections in them.
        kind: what overlaps.
        max_detections: rising numbers of detections an image and class that may count.
    """
    _check(truth, found, kind)
    sigmas = None
    if kind == "keypoints":
        assert truth.keypoints is not None
        points = truth.keypoints.shape[1]
        sigmas = COCO_SIGMAS if points == len(COCO_SIGMAS) else (float(np.mean(COCO_SIGMAS)),) * points
    classes = len(truth.classes)
    step = max(1, PAIRS_AT_ONCE // max(1, len(truth)))
    ranks = np.empty(len(truth), np.int64)  # of the images' ids, which may be texts
    ranks[order_of(truth.ids)] = np.arange(len(truth))
    found = replace(found, scores=_ranked(found.scores))
    parts = [
        _curves_of_classes(truth, found, kind, max_detections, sigmas, ranks, range(low, min(low + step, classes)))
        for low in range(0, classes, step)
    ]
    return Curves(
        np.concatenate([part.precision for part in parts], axis=2),
        np.concatenate([part.recall for part in parts], axis=1),
    )


def _check(truth: AnnotatedSet, found: Detections, kind: Kind) -> None:
    if kind == "segm" and (truth.segments is None or found.segments is None):
        side = truth.name if truth.segments is None else "the detections"
        raise MocoError(f"{side}: no segments, which AP of masks needs; evaluate boxes alone (kind 'bbox')")
    numbers = found.keypoints if kind == "keypoints" else found.boxes if kind == "bbox" else None
    if numbers is not None and not np.isfinite(numbers).all():
        count = int((~np.isfinite(numbers)).reshape(len(numbers), -1).any(axis=1).sum())
        raise MocoError(f"the detections: {count} of {len(numbers)} are not of finite numbers; leave them out")
    if kind == "keypoints":
        if truth.keypoints is None or found.keypoints is None:
            side = truth.name if truth.keypoints is None else "the detections"
            raise MocoError(f"{side}: no keypoints; evaluate boxes alone (kind 'bbox')")
        theirs, ours = truth.keypoints.shape[1], found.keypoints.shape[1]
        if theirs != ours:
            raise MocoError(
                f"{truth.name}: {theirs} keypoints an object, but the detections have {ours}; evaluate the model on the set it was trained for"
            )


def _ranked(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Give numbers in the order of the scores: equal ones stay equal, NaN comes last."""
    _, ranks = np.unique(-scores, return_inverse=True)
    return -ranks.astype(np.float64)


def _curves_of_classes(
    truth: AnnotatedSet,
    found: Detections,
    kind: Kind,
    max_detections: list[int],
    sigmas: tuple[float, ...] | None,
    ranks: NDArray[np.int64],
    classes: range,
) -> Curves:
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    image = image_of_each(truth)
    there, seen = (
        np.flatnonzero((labels >= classes.start) & (labels < classes.stop)) for labels in (truth.labels, found.labels)
    )
    if kind == "segm" and truth.segments is not None:
        there = there[present(truth.segments)[there]]
    description: dict[str, Any] = {
        "images": [_image(truth, n, int(ranks[n])) for n in np.union1d(image[there], found.image[seen]).tolist()],
        "categories": [_category(truth, c) for c in classes],
    }
    objects = _rows(_stated(truth, there), truth.labels[there], ranks[image[there]])
    columns = (truth.areas[there], truth.ignored[there], truth.annotation_ids[there] == 0)
    for row, area, crowd, zero in zip(objects, *(column.tolist() for column in columns), strict=True):
        row |= {"area": area, "iscrowd": int(crowd), "id": 0 if zero else row["id"]}
    detections = _rows(boxes_as_written(found.boxes[seen]), found.labels[seen], ranks[found.image[seen]])
    for row, score in zip(detections, found.scores[seen].tolist(), strict=True):
        row |= {"score": score, "iscrowd": 0}
    if kind == "segm":
        _add_segments(truth, found, there, seen, objects, detections)
    elif kind == "keypoints":
        _add_keypoints(truth, found, there, seen, objects, detections)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an id 0, which counts as pycocotools counts it
        known, guessed = (COCO(description | {"annotations": rows}) for rows in (objects, detections))
    evaluator = COCOeval_faster(
        known,
        guessed,
        kind,
        kpt_oks_sigmas=None if sigmas is None else list(sigmas),
        lvis_style=truth.federated is not None,
    )
    evaluator.params.maxDets = max_detections
    evaluator.params.catIds = [c + 1 for c in classes]
    evaluator.evaluate()
    evaluator.accumulate()
    return Curves(evaluator.eval["precision"][..., -1], evaluator.eval["recall"])


def _image(truth: AnnotatedSet, n: int, number: int) -> dict[str, Any]:
    height, width = truth.sizes[n].tolist()
    described: dict[str, Any] = {"id": number, "height": height, "width": width}
    if truth.federated is not None:
        described["neg_category_ids"] = [c + 1 for c in truth.federated.negative[n]]
        described["not_exhaustive_category_ids"] = [c + 1 for c in truth.federated.not_exhaustive[n]]
    return described


def _category(truth: AnnotatedSet, c: int) -> dict[str, Any]:
    described: dict[str, Any] = {"id": c + 1, "name": truth.classes[c]}
    return described if truth.federated is None else described | {"frequency": truth.federated.frequency[c]}


def _stated(truth: AnnotatedSet, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the objects' boxes as x, y, width, height: [rows, 4]."""
    if truth.stated is not None:
        return truth.stated[rows]
    corners = truth.boxes[rows].astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _rows(boxes: NDArray[np.float64], labels: NDArray[np.int64], images: NDArray[np.int64]) -> list[dict[str, Any]]:
    """COCO's dictionaries; ids from 1, because 0 means "unmatched" to the evaluators."""
    columns = (images.tolist(), (labels + 1).tolist(), boxes.tolist(), boxes[:, 2:].prod(axis=1).tolist())
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area}
        for number, (image, label, box, area) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _add_segments(
    truth: AnnotatedSet,
    found: Detections,
    there: NDArray[np.int64],
    seen: NDArray[np.int64],
    objects: list[dict[str, Any]],
    detections: list[dict[str, Any]],
) -> None:
    from faster_coco_eval.core import mask  # pycocotools.mask.area refuses lists of more than 255

    assert truth.segments is not None and found.segments is not None
    for row, place in zip(objects, there.tolist(), strict=True):
        row["segmentation"] = truth.segments[place]
    chosen = [found.segments[place] for place in seen.tolist()]
    areas = mask.area(chosen).tolist() if chosen else []
    for row, segment, area in zip(detections, chosen, areas, strict=True):
        row |= {"segmentation": segment, "area": area}


def _add_keypoints(
    truth: AnnotatedSet,
    found: Detections,
    there: NDArray[np.int64],
    seen: NDArray[np.int64],
    objects: list[dict[str, Any]],
    detections: list[dict[str, Any]],
) -> None:
    assert truth.keypoints is not None and found.keypoints is not None
    points = truth.keypoints[there].astype(np.float64)
    labelled = (points[:, :, 2] > 0).sum(axis=1) if truth.num_keypoints is None else truth.num_keypoints[there]
    for row, own, count in zip(
        objects, points.reshape(-1, 3 * points.shape[1]).tolist(), labelled.tolist(), strict=True
    ):
        row |= {"keypoints": own, "num_keypoints": count}
    points = keypoints_as_written(found.keypoints[seen])
    areas = np.ptp(points[:, :, :2], axis=1).prod(axis=1).tolist()
    for row, own, area in zip(detections, points.reshape(-1, 3 * points.shape[1]).tolist(), areas, strict=True):
        row |= {"keypoints": own, "area": area}
