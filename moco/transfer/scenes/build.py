"""Scenes composed from real Fashion-MNIST items: a data set for detection and segmentation that needs no download.

Items of the training images appear in training and validation scenes, items of the test images in test
scenes. A training item is on the validation side by the rule of the fetch stage (`choose_split`), so that
with the same seed and share both speak of the same items; those that are in the test set too are left out.

A scene is a pure function of (settings, split, number): more scenes in a split change none of the others.
"""

import errno
import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from moco.config import SPLITS, Fetch, Fraction, Seed, Split
from moco.errors import MocoError
from moco.files import move_folder, require_free
from moco.images.decode import Pixels
from moco.progress import Progress
from moco.settings import Settings
from moco.sources.manifest import choose_split
from moco.sources.open import open_source
from moco.sources.source import Arrays
from moco.transfer.scenes.coco_files import CocoFile
from moco.transfer.scenes.composition import Scene, compose
from moco.transfer.scenes.voc_files import VocFolder

DESCRIPTION = "Scenes of Fashion-MNIST items"
LICENSE = ("MIT", "https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE")


class Scenes(Settings):
    """Composed scenes of Fashion-MNIST items, written as VOC folders and COCO JSON."""

    train: int = Field(ge=1, description="Training scenes.")
    val: int = Field(ge=1, description="Validation scenes, of training items set aside.")
    test: int = Field(ge=1, description="Test scenes, of test items.")
    side: int = Field(ge=48, le=2048, description="Longer side of a scene, pixels.")
    aspect_min: Annotated[float, Field(ge=0.25, le=1)] = Field(
        description="The shorter side is the longer times a factor drawn from [this, 1]; half of the scenes are upright. 1: squares."
    )
    items_min: int = Field(ge=1, le=100, description="Fewest items put into a scene.")
    items_max: int = Field(ge=1, le=100, description="Most items; one for which there is no room is left out.")
    item_min: int = Field(ge=12, description="Smallest size of an item, pixels of its longer side.")
    item_max: int = Field(ge=12, description="Largest size; in between, the logarithm of the size is drawn evenly.")
    clutter: Fraction = Field(
        description="How busy the backgrounds are. 0: soft shades of one color. 1: stripes, checks and patches of"
        " strong contrast, edges between two of them, and up to four shapes of an item's size."
    )
    difficult_below: Fraction = Field(
        description="An item is `difficult` in VOC, and void in its label maps, where less than this share of it is seen."
        " COCO has no such mark and lists it like any other. Of every item at least 0.15 is seen."
    )
    jpeg_quality: int = Field(ge=1, le=100, description="Quality of the scenes' JPEGs.")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Share of the training items that appear in validation scenes, and in these only."
    )
    split_seed: Seed = Field(
        description="Seed of that split, which is the fetch stage's where both values are the same."
    )
    seed: Seed = Field(description="Seed of the scenes.")

    @model_validator(mode="after")
    def _ranges_fit(self) -> "Scenes":
        for least, most in (("items_min", "items_max"), ("item_min", "item_max")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(f"{least} ({getattr(self, least)}) must not exceed {most} ({getattr(self, most)})")
        shortest = round(self.side * self.aspect_min)
        if self.item_max > shortest:
            raise ValueError(
                f"item_max ({self.item_max}) must not exceed the shortest side, side x aspect_min = {shortest} pixels"
            )
        return self


@dataclass(frozen=True)
class Items:
    """The items of one split.

    Attributes:
        images: uint8, N x 28 x 28.
        labels: int64 [N].
        rows: int64 [N], their places in the publisher's file: the training one for train and val, or the test one.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


def build_scenes(folder: Path, settings: Scenes) -> dict[str, Any]:
    """Write the whole set: FOLDER/VOCdevkit/VOC2012 and FOLDER/annotations/instances_{train,val,test}.json.

    The JSON files name the images in VOC2012/JPEGImages; an image's id is its number there. FOLDER/items.csv
    says which item each COCO annotation shows. The folder appears whole or not at all, in the place of an
    earlier one; the same settings give the same bytes, given the same versions of numpy, OpenCV and Pillow.

    Args:
        folder: to be written.
        settings: sizes and seeds.

    Returns:
        For each split: its scenes; its instances, and how many of these are difficult, occluded, truncated,
        stored as polygons and as run lengths; and how many distinct items they show.

    Raises:
        MocoError: Fashion-MNIST cannot be found, the disk is too small, or a split is left without items.
    """
    items, classes = split_items(settings)
    scenes: dict[Split, int] = {"train": settings.train, "val": settings.val, "test": settings.test}
    total = sum(scenes.values())
    require_free(folder, total * (settings.side**2 + 16_000), f"writing {total} scenes")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        counts = _write(part, settings, scenes, items, classes)
        move_folder(part, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MocoError(f"{part}: the disk is full; free some space and build the scenes again") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def split_items(settings: Scenes) -> tuple[dict[Split, Items], list[str]]:
    """The items of each split, and the names of the classes.

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
    """One scene of a split.

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
    counts: dict[str, Any] = {}
    lines = ["annotation,image,split,row"]
    image, total = 0, sum(scenes.values())
    progress = Progress("scenes", total)
    for split in SPLITS:
        coco = CocoFile(classes, "fashion", f"{DESCRIPTION}, {split}", LICENSE)
        found: Counter[str] = Counter()
        shown: set[int] = set()
        for number in range(scenes[split]):
            image, first = image + 1, len(lines)
            name = f"{image:06d}"
            made = scene(settings, items[split], split, number)
            labels, rows = items[split].labels[made.chosen], items[split].rows[made.chosen].tolist()
            difficult = made.visible < settings.difficult_below
            jpeg = _jpeg(made.image, settings.jpeg_quality)
            voc.add(split, name, jpeg, made.masks, made.boxes, labels, difficult, made.truncated, made.occluded)
            coco.add(image, f"{name}.jpg", first, made.masks, made.boxes, labels)
            lines += [f"{annotation},{image},{split},{row}" for annotation, row in enumerate(rows, first)]
            found["difficult"] += int(difficult.sum())
            found["occluded"] += int(made.occluded.sum())
            found["truncated"] += int(made.truncated.sum())
            shown.update(rows)
            progress.update(image, f"{image} of {total} scenes")
        coco.write(folder / f"annotations/instances_{split}.json")
        polygons = sum(isinstance(each["segmentation"], list) for each in coco.annotations)
        counts[split] = {
            "scenes": scenes[split],
            "instances": len(coco.annotations),
            **found,
            "polygons": polygons,
            "run_lengths": len(coco.annotations) - polygons,
            "items": len(shown),
        }
    voc.finish()
    (folder / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return counts


def _jpeg(image: Pixels, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
