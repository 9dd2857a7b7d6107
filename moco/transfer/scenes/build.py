"""Scenes composed from real Fashion-MNIST items: a small set for detection and segmentation.

Items of the training images appear in training and validation scenes, items of the test images in
test scenes. The rule of the fetch stage (`choose_split`) puts a training item on the validation
side, so that both choose the same items with the same seed and share. Items that are in the test
set too are left out.

A scene is a pure function of (settings, split, number): more scenes in a split change no other
scene.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.config import SPLITS, Fetch, Split
from moco.errors import MocoError
from moco.files import require_free, whole_folder
from moco.images.decode import Pixels
from moco.progress import Progress
from moco.sources.open import open_source
from moco.sources.source import Arrays
from moco.sources.splits import choose_split
from moco.transfer.data_config import Scenes
from moco.transfer.scenes.coco_files import annotations_of, write_coco
from moco.transfer.scenes.composition import Scene, compose
from moco.transfer.scenes.voc_files import VocFolder

DESCRIPTION = "Scenes of Fashion-MNIST items"


@dataclass(frozen=True)
class Items:
    """The items of one split.

    Attributes:
        images: uint8, N x 28 x 28.
        labels: int64 [N].
        rows: int64 [N], their places in the publisher's file: the training one for train and val,
            or the test one.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


def build_scenes(folder: Path, settings: Scenes) -> dict[str, Any]:
    """Write FOLDER/VOCdevkit/VOC2012 and FOLDER/annotations/instances_{train,val,test}.json.

    The JSON files name the images in VOC2012/JPEGImages; an image's id is its number there.
    FOLDER/items.csv says which item each COCO annotation shows. The folder appears whole or not at
    all, and replaces an earlier one. The same settings give the same bytes with the same versions
    of numpy, OpenCV and Pillow.

    Args:
        folder: to be written.
        settings: sizes and seeds.

    Returns:
        For each split the number of its scenes, of its instances, of those that are difficult,
        occluded, truncated, stored as polygons and as run lengths, and of the distinct items that
        they show.

    Raises:
        MocoError: Fashion-MNIST cannot be found, the disk is too small, or a split is left without
            items.
    """
    items, classes = split_items(settings)
    scenes: dict[Split, int] = {"train": settings.train, "val": settings.val, "test": settings.test}
    total = sum(scenes.values())
    require_free(folder, total * (settings.side**2 + 16_000), f"writing {total} scenes")
    with whole_folder(folder) as part:
        return _write(part, settings, scenes, items, classes)


def split_items(settings: Scenes) -> tuple[dict[Split, Items], list[str]]:
    """Assign the items to splits, and give the names of the classes.

    Raises:
        MocoError: Fashion-MNIST cannot be found, or a split is left without items.
    """
    fetch = Fetch(
        source="fashion-mnist",
        path="-",
        labels="none",
        val_fraction=settings.val_fraction,
        test_fraction=0,
        split_seed=settings.split_seed,
    )
    source = open_source(fetch)
    assert isinstance(source, Arrays)
    (train, train_labels, _), (test, test_labels, _) = source.parts
    assert train_labels is not None and test_labels is not None
    tested = {hashlib.sha256(image).digest() for image in test}
    sides: dict[Split, list[int]] = {"train": [], "val": []}
    for row, image in enumerate(train):
        digest = hashlib.sha256(image)
        if digest.digest() not in tested:
            sides[choose_split(digest.hexdigest(), "train", fetch)].append(row)
    if not all(sides.values()):
        raise MocoError(
            f"scenes.val_fraction = {settings.val_fraction}: leaves no items for training or for validation;"
            " choose a share near 0.1"
        )
    items = {
        side: Items(train[rows], train_labels[rows].astype(np.int64), np.array(rows, np.int64))
        for side, rows in sides.items()
    }
    items["test"] = Items(test, test_labels.astype(np.int64), np.arange(len(test)))
    return items, source.classes


def scene(settings: Scenes, items: Items, split: Split, number: int) -> Scene:
    """Compose one scene of a split.

    Args:
        settings: sizes and seed.
        items: the split's.
        split: train, val or test.
        number: of the scene in its split, from 0.
    """
    draw = np.random.default_rng([settings.seed, SPLITS.index(split), number])
    shorter = round(settings.side * draw.uniform(settings.aspect_min, 1))
    size = (settings.side, shorter) if draw.random() < 0.5 else (shorter, settings.side)
    count = int(draw.integers(settings.items_min, settings.items_max + 1))
    return compose(draw, items.images, size, count, (settings.item_min, settings.item_max), settings.clutter)


def _write(
    folder: Path, settings: Scenes, scenes: dict[Split, int], items: dict[Split, Items], classes: list[str]
) -> dict[str, Any]:
    voc = VocFolder(folder / "VOCdevkit/VOC2012", classes, DESCRIPTION)
    (folder / "annotations").mkdir()
    counts: dict[str, Any] = {}
    lines = ["annotation,image,split,row"]
    image, total = 0, sum(scenes.values())
    progress = Progress("scenes", total)
    for split in SPLITS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        marks = dict.fromkeys(("difficult", "occluded", "truncated"), 0)
        shown: set[int] = set()
        for number in range(scenes[split]):
            image, first = image + 1, len(lines)
            name = f"{image:06d}"
            made = scene(settings, items[split], split, number)
            labels, rows = items[split].labels[made.chosen], items[split].rows[made.chosen].tolist()
            difficult = made.visible < settings.difficult_below
            voc.add(split, name, _jpeg(made.image, settings.jpeg_quality), made, labels, difficult)
            height, width = made.image.shape[:2]
            images.append({"id": image, "license": 1, "file_name": f"{name}.jpg", "height": height, "width": width})
            annotations += annotations_of(made, labels, image, first)
            lines += [f"{annotation},{image},{split},{row}" for annotation, row in enumerate(rows, first)]
            for mark, marked in zip(marks, (difficult, made.occluded, made.truncated), strict=True):
                marks[mark] += int(marked.sum())
            shown.update(rows)
            progress.update(image, f"{image} of {total} scenes")
        write_coco(
            folder / f"annotations/instances_{split}.json", f"{DESCRIPTION}, {split}", classes, images, annotations
        )
        polygons = sum(isinstance(each["segmentation"], list) for each in annotations)
        counts[split] = {
            "scenes": scenes[split],
            "instances": len(annotations),
            **marks,
            "polygons": polygons,
            "run_lengths": len(annotations) - polygons,
            "items": len(shown),
        }
    voc.finish()
    (folder / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return counts


def _jpeg(image: Pixels, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
