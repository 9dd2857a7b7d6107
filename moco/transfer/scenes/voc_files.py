"""Scenes as a PASCAL VOC folder: images, XML, lists and label maps."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.transfer.scenes.composition import Scene

VOID = 255
"""The label of pixels without class: difficult objects, and the border of every object."""

Map = NDArray[np.uint8]


class VocFolder:
    """A year's folder, such as VOCdevkit/VOC2012, filled image by image.

    Every image is in the detection lists and in the segmentation lists. Label maps hold class c as
    c + 1 and object k of an image as k + 1, in the order of its XML. The background pixel next to
    an object is void (VOC's border is wider), so that no object loses a pixel of its mask.

    Args:
        folder: of the year; made here.
        classes: names. In the names of their lists, _ replaces what a file's name cannot hold.
        database: what <source> names.

    Raises:
        ValueError: the lists of two classes would have the same name.
    """

    def __init__(self, folder: Path, classes: Sequence[str], database: str) -> None:
        self.folder, self.classes, self.database = folder, list(classes), database
        self.file_names = [re.sub(r"[^\w\- ]", "_", name) for name in classes]
        if len(set(self.file_names)) < len(self.classes):
            raise ValueError(f"classes {self.classes} need names that differ in letters and digits")
        self._lists: dict[str, list[tuple[str, NDArray[np.int8]]]] = {}
        for name in ("Annotations", "JPEGImages", "SegmentationClass", "SegmentationObject"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def add(
        self, split: str, name: str, jpeg: bytes, made: Scene, labels: NDArray[np.int64], difficult: NDArray[np.bool_]
    ) -> None:
        """Write an image, its XML and its two label maps, and remember them for the lists.

        Args:
            split: train, val or test.
            name: of the files, without extension.
            jpeg: the image, encoded.
            made: its n items, n at most 254. VOC's boxes count from 1 and include their last pixel.
            labels: int64 [n], from 0.
            difficult: bool [n].
        """
        (self.folder / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg)
        marks = np.stack([made.truncated, made.occluded, difficult], axis=1).astype(int).tolist()
        names = [self.classes[label] for label in labels.tolist()]
        objects = list(zip(names, made.boxes.tolist(), marks, strict=True))
        xml = _annotation(self.folder.name, f"{name}.jpg", self.database, made.masks.shape[1:], objects)
        (self.folder / "Annotations" / f"{name}.xml").write_bytes(xml)
        of_class, of_object = label_maps(made.masks, labels, difficult)
        _write_png(self.folder / "SegmentationClass" / f"{name}.png", of_class)
        _write_png(self.folder / "SegmentationObject" / f"{name}.png", of_object)
        shows = np.full(len(self.classes), -1, np.int8)
        shows[labels[difficult]] = 0
        shows[labels[~difficult]] = 1
        self._lists.setdefault(split, []).append((name, shows))

    def finish(self) -> None:
        """Write the lists of train, val, trainval (the two together) and test."""
        lists = {"trainval": self._lists.get("train", []) + self._lists.get("val", []), **self._lists}
        for kind in ("Main", "Segmentation"):
            (self.folder / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
        for split, rows in lists.items():
            text = "".join(f"{name}\n" for name, _ in rows)
            for kind in ("Main", "Segmentation"):
                (self.folder / "ImageSets" / kind / f"{split}.txt").write_text(text, encoding="utf-8")
            for label, of_class in enumerate(self.file_names):
                # 1: an object of the class, 0: difficult ones only, -1: none
                text = "".join(f"{name} {shows[label]:2d}\n" for name, shows in rows)
                (self.folder / "ImageSets/Main" / f"{of_class}_{split}.txt").write_text(text, encoding="utf-8")


def label_maps(masks: NDArray[np.bool_], labels: NDArray[np.int64], difficult: NDArray[np.bool_]) -> tuple[Map, Map]:
    """Make the numbers of SegmentationClass and SegmentationObject.

    Args:
        masks: bool, n x H x W.
        labels: int64 [n], from 0.
        difficult: bool [n]; their pixels are void.

    Returns:
        Two uint8 maps, H x W: 0 is background, `VOID` void.
    """
    of_object = np.zeros(masks.shape[1:], np.uint8)
    for number, mask in enumerate(masks, start=1):
        of_object[mask] = number
    border = cv2.dilate((of_object > 0).view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    number_of = np.arange(len(masks) + 1, dtype=np.uint8)
    number_of[1:][difficult] = VOID
    class_of = np.concatenate([[0], labels + 1]).astype(np.uint8)
    class_of[1:][difficult] = VOID
    border &= of_object == 0
    maps = class_of[of_object], number_of[of_object]
    for one in maps:
        one[border] = VOID
    return maps


def _annotation(
    folder: str,
    file_name: str,
    database: str,
    size: tuple[int, ...],
    objects: Sequence[tuple[str, list[int], list[int]]],
) -> bytes:
    root = ET.Element("annotation")
    _texts(root, folder=folder, filename=file_name)
    _texts(ET.SubElement(root, "source"), database=database)
    _texts(ET.SubElement(root, "size"), width=size[1], height=size[0], depth=3)
    _texts(root, segmented=1)
    for name, (x0, y0, x1, y1), (truncated, occluded, difficult) in objects:
        item = ET.SubElement(root, "object")
        _texts(item, name=name, pose="Unspecified", truncated=truncated, occluded=occluded, difficult=difficult)
        _texts(ET.SubElement(item, "bndbox"), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
    ET.indent(root, "\t")
    return f"{ET.tostring(root, encoding='unicode')}\n".encode()


def _texts(parent: ET.Element, **values: object) -> None:
    for tag, value in values.items():
        ET.SubElement(parent, tag).text = str(value)


def _write_png(path: Path, labels: Map) -> None:
    image = Image.fromarray(labels).convert("L")
    image.putpalette(_PALETTE)
    image.save(path)


def _palette() -> bytes:
    """VOC's colors: bits 0, 3, 6 of a number are red's highest, 1, 4, 7 green's, 2, 5 blue's."""
    numbers = np.arange(256)
    channels = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        channels[:, bit % 3] |= ((numbers >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return channels.tobytes()


_PALETTE = _palette()
