"""A listing: the images that came in at one time, with label, split and hash. It never changes."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moco.config import SPLITS, Split
from moco.errors import MocoError
from moco.files import csv_writer
from moco.sources.splits import Part


class Item(NamedTuple):
    """An image as a source found it."""

    path: str
    """Relative to the source's root; of an array of images: the array's file name; in a tar: the
    tar's path and the member's name."""
    row: int | None
    """Position in the array of images, or offset in the tar; None for a file."""
    label: str
    """Name of the class, empty if unlabelled."""
    part: Part
    sha256: str
    """Of the file's bytes or the array's row, hexadecimal; empty for an unreadable file."""
    bytes: int
    group: str = ""
    """Images of one group are in one split; empty: the image is a group by itself."""


class Row(NamedTuple):
    """A line of a listing: the columns of `Item`, with the split of the image."""

    path: str
    row: int | None
    label: str
    split: Split
    sha256: str
    bytes: int
    copy: int = 0
    """Of the earlier images of the same content in a set that the source has itself."""
    cluster: str = ""
    """What the split follows from, where that is the group; empty: the content."""

    @property
    def key(self) -> int:
        """The sample's key, from its content: 64 bits. Not of an unreadable file."""
        return (int(self.sha256[:16], 16) + self.copy) % 2**64


def write_listing(path: Path, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows, in the order of the columns of `Row`, to a new file."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv_writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def read_listing(path: Path) -> Iterator[Row]:
    """Stream the rows of a listing: train, val, test.

    Raises:
        MocoError: it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            if next(reader, None) != list(Row._fields):
                raise ValueError("the first line is no header")
            for name, row, label, split, digest, size, copy, cluster in reader:
                if split not in SPLITS:
                    raise ValueError(f"line {reader.line_num} names the split {split!r}")
                yield Row(name, int(row) if row else None, label, split, digest, int(size), int(copy), cluster)
    except (OSError, ValueError, csv.Error) as error:
        raise MocoError(f"{path}: damaged ({error}); {RESTORE}") from None


RESTORE = "`dvc checkout data/raw` restores it"
