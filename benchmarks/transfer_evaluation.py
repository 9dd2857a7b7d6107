"""Compare evaluating detections with pycocotools: `python -m benchmarks.transfer_evaluation`."""

import contextlib
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measure import Row, cpu_seconds, interleaved, machine, options, save
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.metrics.coco import Kind, coco_ap
from moco.transfer.metrics.segmentation import confusion, mean_iou
from moco.transfer.metrics.voc import voc_ap

HEIGHT, WIDTH = 480, 640
OBJECTS, DETECTIONS = 7, 100
"""An image, as COCO val2017 has them and as detectors give them."""
CLASSES, POINTS = 80, 17
FIGURES: dict[Kind, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}


def octagons(boxes: NDArray[np.float32]) -> list[list[float]]:
    """Draw a polygon of eight corners in each box."""
    angles = np.arange(8) * np.pi / 4
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2
    middle, sides = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, boxes[:, None, 2:] - boxes[:, None, :2]
    corners: list[list[float]] = (middle + around * sides).reshape(len(boxes), -1).tolist()
    return corners


def made_up(images: int, classes: int) -> tuple[AnnotatedSet, Detections]:
    """Objects with masks and keypoints, and detections, a third of them near one."""
    random = np.random.default_rng(0)

    def boxes_of(count: int) -> NDArray[np.float32]:
        sides = np.minimum(np.exp(random.normal(4, 1, (count, 2))), (WIDTH - 2, HEIGHT - 2)).clip(min=8)
        low = random.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
        return np.concatenate([low, low + sides], axis=1).astype(np.float32)

    objects = images * OBJECTS
    boxes, labels = boxes_of(objects), random.integers(0, classes, objects)
    keypoints = random.uniform(boxes[:, None, :2], boxes[:, None, 2:], (objects, POINTS, 2))
    visible = np.full((objects, POINTS, 1), 2.0)
    truth = AnnotatedSet(
        name="made up",
        classes=[f"class {c}" for c in range(classes)],
        ids=list(range(1, images + 1)),
        paths=[Path(f"{n}.jpg") for n in range(images)],
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (images, 1)),
        first=np.arange(images + 1) * OBJECTS,
        boxes=boxes,
        labels=labels,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * 0.7,
        ignored=random.random(objects) < 0.01,
        annotation_ids=np.arange(objects) + 1,
        segments=[[corners] for corners in octagons(boxes)],
        keypoints=np.concatenate([keypoints, visible], axis=2).astype(np.float32),
    )
    image = np.repeat(np.arange(images), DETECTIONS)
    near = image * OBJECTS + random.integers(0, OBJECTS, len(image))
    close = random.random(len(image)) < 1 / 3
    moved = boxes[near] + random.normal(0, 0.05, (len(image), 4)) * (boxes[near, 2:] - boxes[near, :2])[:, [0, 1, 0, 1]]
    moved = np.where(close[:, None], moved, boxes_of(len(image))).astype(np.float32)
    points = keypoints[near] + random.normal(0, 5, (len(image), POINTS, 2))
    encoded = [mask.frPyObjects([corners], HEIGHT, WIDTH)[0] for corners in octagons(moved)]
    return truth, Detections(
        image=image,
        boxes=moved,
        scores=random.random(len(image)).astype(np.float32),
        labels=np.where(close, labels[near], random.integers(0, classes, len(image))),
        segments=encoded,
        keypoints=np.concatenate([points, np.ones((len(image), POINTS, 1))], axis=2).astype(np.float32),
    )


def coco_files(truth: AnnotatedSet, found: Detections, kind: Kind) -> tuple[dict[str, Any], list[Any]]:
    """Turn the same into what pycocotools holds after reading its JSON files."""
    assert truth.segments is not None and truth.keypoints is not None
    assert found.segments is not None and found.keypoints is not None

    def xywh(boxes: NDArray[np.float32]) -> list[list[float]]:
        corners = boxes.astype(np.float64)
        rows: list[list[float]] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        return rows

    annotations = [
        {
            "id": row + 1,
            "image_id": row // OBJECTS + 1,
            "category_id": int(truth.labels[row]) + 1,
            "bbox": box,
            "area": float(truth.areas[row]),
            "iscrowd": int(truth.ignored[row]),
            "segmentation": truth.segments[row],
            "keypoints": truth.keypoints[row].astype(float).ravel().tolist(),
            "num_keypoints": POINTS,
        }
        for row, box in enumerate(xywh(truth.boxes))
    ]
    value: dict[Kind, Callable[[int], dict[str, Any]]] = {
        "bbox": lambda row: {"bbox": boxes[row]},
        "segm": lambda row: {"segmentation": found.segments[row]},  # type: ignore[index]
        "keypoints": lambda row: {"keypoints": found.keypoints[row].astype(float).ravel().tolist()},  # type: ignore[index]
    }
    boxes = xywh(found.boxes)
    results = [
        {
            "image_id": int(found.image[row]) + 1,
            "category_id": int(found.labels[row]) + 1,
            "score": float(found.scores[row]),
        }
        | value[kind](row)
        for row in range(len(found.image))
    ]
    images = [{"id": n, "height": HEIGHT, "width": WIDTH} for n in truth.ids]
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(truth.classes)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def by_pycocotools(files: tuple[dict[str, Any], list[Any]], kind: Kind, stats: list[float]) -> tuple[int, float, float]:
    """One evaluation; copies of the dictionaries, which it changes, are not timed."""
    annotated = files[0] | {"annotations": [dict(row) for row in files[0]["annotations"]]}
    results = [dict(row) for row in files[1]]
    wall, cpu = time.perf_counter(), cpu_seconds()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotated
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats[:] = evaluation.stats.tolist()
    return 1, time.perf_counter() - wall, cpu_seconds() - cpu


def ours(truth: AnnotatedSet, found: Detections, kind: Kind, figures: dict[str, Any]) -> int:
    """One evaluation from the columns."""
    figures |= coco_ap(truth, found, kind)
    return 1


def agreement(kind: Kind, figures: dict[str, Any], stats: list[float]) -> float:
    """Find the largest difference of a figure.

    Raises:
        AssertionError: it is above 1e-9.
    """
    apart = max(
        abs((-1.0 if figures[name] is None else figures[name]) - value)
        for name, value in zip(FIGURES[kind], stats, strict=True)
    )
    assert apart <= 1e-9, f"{kind}: figures differ by {apart}"
    return apart


def label_maps(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make true and predicted label maps of Cityscapes' size and classes, a tenth ignored."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 19, (count, 1024, 2048), np.uint8)
    predicted = np.where(random.random(truth.shape, np.float32) < 0.7, truth, (truth + 1) % 19)
    truth[:, ::10] = 255
    return truth, predicted


def our_iou(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], found: list[float]) -> int:
    """Count image by image."""
    counts = sum(confusion(a, b, 19) for a, b in zip(truth, predicted, strict=True))
    found[:] = [mean_iou(np.asarray(counts), [str(c) for c in range(19)])["mIoU"]]
    return len(truth)


def torchmetrics_iou(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], found: list[float]) -> int:
    """Count the same by torchmetrics, which counts int64 tensors."""
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(19, ignore_index=255, validate_args=False)
    for a, b in zip(truth, predicted, strict=True):
        metric.update(torch.from_numpy(b).long(), torch.from_numpy(a).long())
    found[:] = [float(metric.compute())]
    return len(truth)


def main() -> None:
    """Measure COCO's figures beside pycocotools, label maps beside torchmetrics, and VOC's."""
    quick = options(__doc__).quick
    begun = machine()
    images, rounds = (200, 3) if quick else (1_000, 5)
    table = f"{images:,} images, {OBJECTS} objects and {DETECTIONS} detections each"
    rows, proofs = [], []
    for kind in FIGURES:
        classes = 1 if kind == "keypoints" else CLASSES
        truth, found = made_up(images, classes)
        figures: dict[str, Any] = {}
        stats: list[float] = []
        costs = interleaved(
            {
                "ours": partial(ours, truth, found, kind, figures),
                "theirs": partial(by_pycocotools, coco_files(truth, found, kind), kind, stats),
            },
            rounds,
        )
        apart = agreement(kind, figures, stats)
        proofs.append(
            f"the {len(stats)} figures of {kind} agree within {max(apart, 1e-16):.0e} (AP {figures['AP']:.3f})"
        )
        rows.append(
            Row(
                table,
                f"COCO {kind}, {classes} class{'es' * (classes > 1)}",
                "s",
                costs["ours"].wall,
                "pycocotools",
                costs["theirs"].wall,
                costs["ours"].cpu,
                costs["theirs"].cpu,
                note="ours from columns, theirs from the dictionaries that its JSON files become",
            )
        )
        if kind == "bbox":
            voc = interleaved({"ours": lambda a=truth, b=found: int(bool(voc_ap(a, b)))}, rounds)["ours"]  # type: ignore[misc]
            rows.append(Row(table, f"VOC AP50, AP, AP75, {classes} classes", "s", voc.wall, ours_cpu=voc.cpu))
    maps = label_maps(2 if quick else 8)
    mean: list[float] = []
    theirs: list[float] = []
    costs = interleaved(
        {"ours": partial(our_iou, *maps, mean), "theirs": partial(torchmetrics_iou, *maps, theirs)}, rounds
    )
    assert abs(mean[0] - theirs[0]) < 1e-6
    proofs.append(f"mIoU is {mean[0]:.6f} on both sides")
    rows.append(
        Row(
            "Label maps of 2,048 x 1,024 pixels, 19 classes",
            "mIoU, an image",
            "s",
            costs["ours"].wall,
            "torchmetrics",
            costs["theirs"].wall,
            costs["ours"].cpu,
            costs["theirs"].cpu,
        )
    )
    save("transfer_evaluation", rows, proofs, begun, quick)


if __name__ == "__main__":
    main()
