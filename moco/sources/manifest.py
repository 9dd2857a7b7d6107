"""The split, a function of each image's content alone, and the manifest that records it."""

import csv
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from moco.config import SPLITS, Fetch, Split
from moco.errors import MocoError
from moco.files import write_json

IMAGE_SUFFIXES = {
    "",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".ppm",
} | {".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".ico", ".tga"}


def is_image_name(path: str) -> bool:
    """Tell whether a name claims an image; that of a video or a text beside the images does not."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


Part = Literal["all", "train", "test"]
"""all: the source has no test set; train, test: the official part of an image."""

ARRAY_FILE = "images.npy"
"""Beside the manifest: the images of a source of arrays, uint8, N x H x W or N x H x W x 3."""


class Item(NamedTuple):
    """An image as a source found it."""

    path: str
    """Relative to the source's root; of an array of images: the array's file name."""
    row: int | None
    """Position in the array of images, None for a file."""
    label: str
    """Name of the class, empty if unlabelled."""
    part: Part
    sha256: str
    """Of the file's bytes or the array's row, hexadecimal; empty for an unreadable file."""
    bytes: int


class Row(NamedTuple):
    """A line of manifest.csv: the columns of `Item`, with the split of the image."""

    path: str
    row: int | None
    label: str
    split: Split
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What manifest.json holds: the images as a whole."""

    source: str
    root: str | None
    """Where the paths of manifest.csv start, as in the settings; None: beside the manifest."""
    classes: list[str]
    images: int
    other_files: int
    """Files whose names claim no image; sharding tries them, and mostly lists them as
    unreadable."""
    bytes: int
    """Of both."""
    splits: dict[str, dict[str, int]]
    """For each of train, val and test: how many `images`, and how many of them are `labelled`."""
    duplicates: int
    """Images that have an exact twin earlier in the manifest; twins are always on one side."""
    duplicates_of_test: int
    """Official training images left out because they are in the official test set too."""


def choose_split(digest: str, part: Part, settings: Fetch) -> Split:
    """Choose the split of an image: a pure function of the seed and its content.

    Exact duplicates fall on one side, and images that arrive later move no others.

    Args:
        digest: the SHA-256 of its content, hexadecimal.
        part: an official test image stays one, and no official training image becomes one.
        settings: the seed and the shares.
    """
    if part == "test":
        return "test"
    place = int.from_bytes(_keyed("split", digest, settings)) / 2**64
    test = settings.test_fraction if part == "all" else 0.0
    if place < test:
        return "test"
    return "val" if place < test + settings.val_fraction else "train"


def _keyed(use: str, digest: str, settings: Fetch) -> bytes:
    return hashlib.sha256(f"{use}:{settings.split_seed}:{digest}".encode()).digest()[:8]


def write_manifest(
    items: Iterable[Item], folder: Path, settings: Fetch, root: str | None, classes: list[str] | None
) -> Manifest:
    """Split the images and write manifest.csv and manifest.json.

    The order within a split is pseudo-random, by a keyed hash of the content, so shards cut from
    it are well mixed. A scratch database on disk sorts: memory does not grow with the number of
    images.

    Args:
        items: the images, in any order.
        folder: an existing folder; receives both files.
        settings: source, seed and shares.
        root: where the items' paths start, or None for beside the manifest.
        classes: names in the source's order; None: the labels found, in numerical or alphabetical
        order.

    Raises:
        MocoError: there are no images, or none fell on the training side.
    """
    scratch = folder / "rows.sqlite"
    with closing(sqlite3.connect(scratch, isolation_level=None)) as database:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        # File names need not be UTF-8.
        database.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        database.execute("CREATE TABLE files (place, sort, path, row, label, part, sha256, bytes, image)")
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO files VALUES (?, ?, CAST(? AS TEXT), ?, CAST(? AS TEXT), ?, ?, ?, ?)",
            (_record(item, settings) for item in items),
        )
        database.execute("COMMIT")
        manifest = _summarize(database, settings, root, classes)
        columns = "path, row, label, place, sha256, bytes"
        listing = folder / "manifest.csv"
        with listing.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row._fields)
            for *values, place, digest, size in database.execute(
                f"SELECT {columns} FROM files ORDER BY place, sort, path, row"
            ):
                writer.writerow([*values, SPLITS[place], digest, size])
    scratch.unlink()
    write_json(folder / "manifest.json", vars(manifest))
    return manifest


def _record(item: Item, settings: Fetch) -> tuple[Any, ...]:
    # An unreadable file has no content to hash; its name stands in, and sharding lists it.
    digest = item.sha256 or hashlib.sha256(item.path.encode(errors="surrogateescape")).hexdigest()
    place = SPLITS.index(choose_split(digest, item.part, settings))
    path, label = (text.encode(errors="surrogateescape") for text in (item.path, item.label))
    sort, image = _keyed("order", digest, settings), item.row is not None or is_image_name(item.path)
    return place, sort, path, item.row, label, item.part, item.sha256, item.bytes, image


def _summarize(database: sqlite3.Connection, settings: Fetch, root: str | None, classes: list[str] | None) -> Manifest:
    twins = database.execute(
        "DELETE FROM files WHERE part = 'train' AND sha256 <> ''"
        " AND sha256 IN (SELECT sha256 FROM files WHERE part = 'test')"
    ).rowcount

    def count(what: str, where: str = "image") -> int:
        return int(database.execute(f"SELECT {what} FROM files WHERE {where}").fetchone()[0] or 0)

    splits: dict[str, dict[str, int]] = {
        name: {
            "images": count("COUNT(*)", f"image AND place = {place}"),
            "labelled": count("COUNT(*)", f"image AND place = {place} AND label <> ''"),
        }
        for place, name in enumerate(SPLITS)
    }
    images, others = count("COUNT(*)"), count("COUNT(*)", "NOT image")
    if not images:
        raise MocoError(
            f"fetch.path = {settings.path!r}: no images there ({others} other files); put images there, or correct it"
        )
    if not splits["train"]["images"]:
        raise MocoError(
            f"fetch.path = {settings.path!r}: none of the {images} images fell on the training side;"
            " add images, or lower fetch.val_fraction and fetch.test_fraction"
        )
    if classes is None:
        found = [name for (name,) in database.execute("SELECT DISTINCT label FROM files WHERE image AND label <> ''")]
        numbers = all(name.isdecimal() for name in found)
        classes = sorted(found, key=lambda name: (int(name), name)) if numbers else sorted(found)
    return Manifest(
        source=settings.source,
        root=root,
        classes=classes,
        images=images,
        other_files=others,
        bytes=count("SUM(bytes)", "TRUE"),
        splits=splits,
        duplicates=count("COUNT(*) - COUNT(DISTINCT sha256)", "image AND sha256 <> ''"),
        duplicates_of_test=twins,
    )


def read_manifest(folder: Path) -> tuple[Manifest, Iterator[Row]]:
    """Read the manifest, and stream its rows in order: train, val, test.

    Raises:
        MocoError: there is none, or it is damaged.
    """
    try:
        manifest = Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise MocoError(f"{folder}/manifest.json: no such file; run `dvc repro fetch` first") from None
    except (ValueError, TypeError) as error:
        raise MocoError(f"{folder}/manifest.json: damaged ({error}); run `dvc repro --force fetch`") from None
    return manifest, _rows(folder / "manifest.csv")


def _rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            if next(reader, None) != list(Row._fields):
                raise ValueError("the first line is no header")
            for name, row, label, split, digest, size in reader:
                if split not in SPLITS:
                    raise ValueError(f"line {reader.line_num} names the split {split!r}")
                yield Row(name, int(row) if row else None, label, split, digest, int(size))
    except (OSError, ValueError, csv.Error) as error:
        raise MocoError(f"{path}: damaged ({error}); run `dvc repro --force fetch`") from None
