"""Other places of images: where a file moved to, and where `moco ingest` found a copy of it.

A listing never changes, so what is known later of an image's place stands in places.csv. No tar
depends on it: an image's bytes are read wherever its content is.
"""

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from moco.errors import MocoError
from moco.files import write_table
from moco.sources.listing import RESTORE

PLACES = "places.csv"


class Place(NamedTuple):
    """A line of places.csv: a further place of an image."""

    listing: int
    line: int
    root: str
    path: str
    row: int | None
    """Offset in a tar; None for a file."""
    followed: bool
    """Found by `fetch`, which forgets it when the file is gone; else by `moco ingest`, so that the
    image stays whatever `fetch.path` holds."""


def read_places(folder: Path) -> Iterator[Place]:
    """Stream the lines of places.csv, in the order of the listings; at most two an image.

    Raises:
        MocoError: it is damaged.
    """
    path = folder / PLACES
    if not path.exists():
        return
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            next(reader, None)
            for listing, line, root, name, row, followed in reader:
                yield Place(int(listing), int(line), root, name, int(row) if row else None, followed == "1")
    except (OSError, ValueError, csv.Error) as error:
        raise MocoError(f"{path}: damaged ({error}); {RESTORE}") from None


def write_places(folder: Path, places: Iterator[Place]) -> None:
    """Write places.csv, if there are any; they come in order."""
    first = next(places, None)
    if first is not None:
        found = ((*place[:5], int(place.followed)) for place in chain([first], places))
        write_table(folder / PLACES, Place._fields, found)


def file_at(root: str | Path, path: str, row: int | None) -> Path:
    """Give the file that holds an image: its own, or the tar around it."""
    file = Path(root) / path
    return file if row is None else next((above for above in reversed(file.parents) if above.is_file()), file)
