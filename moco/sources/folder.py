"""A folder of images."""

import os
from collections.abc import Iterator
from pathlib import Path

from moco.config import Fetch, Split
from moco.errors import MocoError
from moco.sources.source import File, Files, part_of
from moco.sources.tree import SYSTEMS, LeftOut, walk_tree

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names in lower case of the folders that are splits where all folders are, and one is `train`."""
LAYOUTS = (
    ("PASCAL VOC's", {"jpegimages", "annotations"}, "JPEGImages"),
    ("YOLO's", {"images", "labels"}, "images"),
    ("COCO's", {"images", "annotations"}, "images"),
    ("COCO's", {"train2017", "annotations"}, "train2017"),
    ("COCO's", {"train2014", "annotations"}, "train2014"),
    ("Cityscapes'", {"leftimg8bit", "gtfine"}, "leftImg8bit/train"),
)
"""Layouts whose folders are no classes: whose, folders that show it, and where the images are."""


def find(settings: Fetch) -> Files:
    """Find the files of the folder; its folders name the splits or the classes, or nothing does."""
    path, labelled = Path(settings.path), settings.labels == "folders"
    if not path.is_dir():
        raise MocoError(f"fetch.path = {str(path)!r}: no such folder; name the folder that holds your images")
    if next(walk_tree(path), None) is None:
        raise MocoError(f"fetch.path = {str(path)!r}: the folder holds no files; put your images there")
    folders = _folders(path)
    if labelled:
        _require_classes(path, folders)
    splits = _splits(folders)
    own = frozenset(splits.values()) - {"train"}
    left_out, notes = LeftOut(), []
    if splits:
        notes.append(f"folders taken for splits: {', '.join(f'{name} ({split})' for name, split in splits.items())}")
    elif labelled and len(folders) == 1 and _folders(path / folders[0]):
        notes.append(
            f"all images are in the folder {folders[0]!r}, which is the only class; if the folders in it are the"
            f" classes, set fetch.path to {str(path / folders[0])!r}"
        )

    def walk() -> Iterator[File]:
        left_out.clear()
        for name in walk_tree(path, left_out):
            first, slash, rest = name.partition("/")
            if splits and slash:
                label, below, _ = rest.partition("/")
                yield File(name, label if labelled and below else "", part_of(splits[first], own))
            else:
                yield File(name, first if labelled and slash and not splits else "")

    return Files(str(path), walk, own=own, left_out=left_out, notes=notes)


def _folders(path: Path) -> list[str]:
    entries = (entry for entry in os.scandir(path) if not entry.name.startswith("."))
    return sorted(entry.name for entry in entries if entry.is_dir() and entry.name.lower() not in SYSTEMS)


def _splits(folders: list[str]) -> dict[str, Split]:
    """Give the split of each folder if all are splits, train and another at least; else nothing."""
    found = {name: SPLIT_OF.get(name.lower()) for name in folders}
    splits = {name: split for name, split in found.items() if split is not None}
    return splits if len(splits) == len(folders) and {"train"} < set(splits.values()) else {}  # type: ignore[return-value]


def _require_classes(path: Path, folders: list[str]) -> None:
    """Refuse layouts of annotated images, whose folders are no classes."""
    there = {name.lower() for name in folders}
    for whose, needed, images in LAYOUTS:
        if needed <= there:
            raise MocoError(
                f"fetch.path = {str(path)!r}: looks like {whose} layout ({', '.join(sorted(needed))}), whose folders are"
                f" no classes; set fetch.path to {str(path / images)!r} and fetch.labels to none"
            )
