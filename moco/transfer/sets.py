"""Images as transfer/params.yaml names them, and the published metric of each format."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.images.index import open_split
from moco.transfer.config import Comparison, TaskName
from moco.transfer.data.annotations import AnnotatedSet, Detections, data_hash
from moco.transfer.data.cityscapes import read_cityscapes
from moco.transfer.data.coco import read_coco, read_lvis
from moco.transfer.data.problems import Checks
from moco.transfer.data.results import Kind, write_results
from moco.transfer.data.voc import VOC_CLASSES, read_voc, read_voc_segmentation
from moco.transfer.data_config import AnnotatedImages, Cityscapes, Data, Shards, Voc, VocBoxes, VocMaps
from moco.transfer.metrics.coco import coco_ap
from moco.transfer.metrics.lvis import lvis_ap
from moco.transfer.metrics.voc import voc_ap

TrainingSet = AnnotatedSet | Labelled


@dataclass(frozen=True)
class Sets:
    """Training and test images of a comparison."""

    train: TrainingSet
    test: TrainingSet

    @classmethod
    def of(cls, comparison: Comparison, quarantine: Path | None = None) -> "Sets":
        """Read both; errors as in `open_data`.

        Args:
            comparison: says where they are.
            quarantine: where to list what is bad in the training set; what is bad in the test set
                goes into a file beside it whose name begins with `test-`.
        """
        data, task = comparison.data, comparison.training.task
        train = open_data(data, task, "train", quarantine)
        classes = train.classes if isinstance(train, AnnotatedSet) else None
        quarantine = quarantine and quarantine.with_name(f"test-{quarantine.name}")
        sets = cls(train, open_data(data, task, "test", quarantine, classes))
        trained, tested = _classes_of(train), _classes_of(sets.test)
        if trained != tested:
            raise MocoError(
                f"{data.path}: train and test have other classes ({len(trained)} and {len(tested)}); name sets with the"
                " same ones, in the same order"
            )
        return sets


def _classes_of(images: TrainingSet) -> list[str]:
    if isinstance(images, Labelled):
        return images.images.classes
    return images.semantic_classes if images.label_maps is not None else images.classes


def hash_of(images: TrainingSet) -> str:
    """Make a text that changes with the images and with what is annotated in them."""
    if isinstance(images, AnnotatedSet):
        return data_hash(images)
    chosen = hashlib.sha256(images.indices.tobytes()).hexdigest()
    return f"{images.images.data_hash} {images.images.split} {chosen}"


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
        quarantine: where to list what is bad, one JSON object a line.
        classes: of boxes; a test set has those of its training set. None: those of the files.

    Raises:
        MocoError: something is missing, is not in the named format, or too much of it is bad.
    """
    part = getattr(data, side)
    if isinstance(data, Shards):
        labelled = Labelled.of(open_split(data.path, part))
        if not len(labelled.labels):
            lacks = "no label" if len(labelled.images) else "no image"
            raise MocoError(
                f"data.{side} = {part}: {data.path} has {lacks} there, and classes need them; name another split"
            )
        return labelled
    assert isinstance(data, AnnotatedImages)
    checks, masks = Checks(data.max_bad_fraction, quarantine, tested=side == "test"), task == "instances"
    if isinstance(data, Cityscapes):
        return read_cityscapes(data.path, part, checks=checks)
    if isinstance(data, Voc):
        splits = [(year, name) for year, _, name in (each.partition("/") for each in part)]
        if isinstance(data, VocMaps):
            names, maps = data.classes or VOC_CLASSES, data.label_maps or "SegmentationClass"
            return read_voc_segmentation(data.path, splits, classes=names, labels=maps, checks=checks)
        return read_voc(data.path, splits, classes=data.classes or classes, masks=masks, checks=checks)
    folder = Path(data.path)
    if data.format == "lvis":
        return read_lvis(part, folder, masks=masks, checks=checks)
    named = folder / Path(part).stem.rpartition("_")[2]  # train2017 of instances_train2017.json
    return read_coco(part, named if named.is_dir() else folder, masks=masks, checks=checks)


def kinds_of(task: TaskName) -> dict[str, Kind]:
    """Name what a detector of a task finds, and how COCO calls it."""
    kinds: dict[str, Kind] = {"box": "bbox"}
    if task == "instances":
        kinds["mask"] = "segm"
    if task == "keypoints":
        kinds["keypoints"] = "keypoints"
    return kinds


def average_precisions(data: Data, task: TaskName, truth: AnnotatedSet, found: Detections) -> dict[str, dict[str, Any]]:
    """Compute the metrics that the data are published with: of boxes, masks, keypoints.

    Args:
        data: its format chooses the metric.
        task: detection, instances or keypoints.
        truth: the test images.
        found: what was detected in them.
    """
    kinds = kinds_of(task)
    if data.format == "lvis":
        return {name: lvis_ap(truth, found, kind) for name, kind in kinds.items()}  # type: ignore[arg-type]
    if isinstance(data, VocBoxes):
        return {"box": voc_ap(truth, found, eleven_points=data.eleven_points)}
    return {name: coco_ap(truth, found, kind) for name, kind in kinds.items()}


def write_detections(folder: Path, task: TaskName, truth: AnnotatedSet, found: Detections) -> None:
    """Write results-box.json, -mask or -keypoints as evaluation servers take them.

    Sets that are not read from COCO's or LVIS's files have no such servers, and get none.
    """
    if truth.category_ids:
        for name, kind in kinds_of(task).items():
            write_results(folder / f"results-{name}.json", truth, found, kind)
