"""Annotated images as transfer/params.yaml names them, and the published metric of each form."""

from pathlib import Path
from typing import Any, Literal

from moco.features.extract import Labelled
from moco.images.index import open_split
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.cityscapes import read_cityscapes
from moco.transfer.data.coco import read_coco, read_lvis
from moco.transfer.data.problems import Checks
from moco.transfer.data.voc import VOC_CLASSES, read_voc, read_voc_segmentation
from moco.transfer.metrics.coco import Kind, coco_ap
from moco.transfer.metrics.lvis import lvis_ap
from moco.transfer.metrics.voc import voc_ap
from moco.transfer.params import Data
from moco.transfer.settings import TaskName


def open_data(
    data: Data,
    task: TaskName,
    side: Literal["train", "test"],
    quarantine: Path | None = None,
    classes: list[str] | None = None,
) -> AnnotatedSet | Labelled:
    """Read the training or the test images of a task.

    Args:
        data: where they are.
        task: what they are for.
        side: which of them.
        quarantine: where to list what was left out, one JSON object a line.
        classes: of boxes, where they are known already: a test set has those of its training set.

    Raises:
        MocoError: something is missing, is not in the form that was named, or too much of it is bad.
    """
    parts: list[str] = getattr(data, side)
    checks = Checks(data.max_bad_fraction, quarantine)
    if data.format == "shards":
        return Labelled.of(open_split(data.path, parts[0]))  # type: ignore[arg-type]  # which it refuses by name
    if data.format == "cityscapes":
        return read_cityscapes(data.path, parts[0], checks=checks)
    if data.format == "voc":
        splits = [(year, name) for year, _, name in (part.partition("/") for part in parts)]
        if task == "semantic":
            names, maps = data.classes or VOC_CLASSES, data.label_maps or "SegmentationClass"
            return read_voc_segmentation(data.path, splits, classes=names, labels=maps, checks=checks)
        masks = task == "instances"
        return read_voc(data.path, splits, classes=data.classes or classes, masks=masks, checks=checks)
    folder = Path(data.path)
    named = folder / Path(parts[0]).stem.rpartition("_")[2]  # train2017 of instances_train2017.json
    if data.format == "lvis":
        return read_lvis(parts[0], folder, masks=task == "instances", checks=checks)
    images = named if named.is_dir() else folder
    return read_coco(parts[0], images, masks=task == "instances", checks=checks)


def average_precisions(data: Data, task: TaskName, truth: AnnotatedSet, found: Detections) -> dict[str, dict[str, Any]]:
    """The metrics that are published for such data, by kind of prediction: box, mask, keypoints.

    Args:
        data: its form chooses the metric.
        task: detection, instances or keypoints.
        truth: the test images.
        found: what was detected in them.
    """
    kinds: dict[str, Kind] = {"box": "bbox"}
    if task == "instances":
        kinds["mask"] = "segm"
    if task == "keypoints":
        kinds["keypoints"] = "keypoints"
    if data.format == "lvis":
        return {name: lvis_ap(truth, found, kind) for name, kind in kinds.items()}  # type: ignore[arg-type]
    if data.format == "voc" and task == "detection":
        return {"box": voc_ap(truth, found, eleven_points=data.eleven_points)}
    return {name: coco_ap(truth, found, kind) for name, kind in kinds.items()}
