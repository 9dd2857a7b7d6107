"""The manifest: what there is, as listings that are only added to, and what was taken out of them.

Images that arrive later make a listing of their own, so what was made from the earlier ones stays
as it is. An image that is taken out keeps its line; `removed.csv` names it.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.listing import RESTORE, Row, read_listing
from moco.sources.places import Place, read_places

MANIFEST, REMOVED, LEFT_OUT, FORGOTTEN = "manifest.json", "removed.csv", "left_out.csv", "forgotten.csv"
FORMAT = 2


EXACT, NEAR, OF_OWN_SET = "exact duplicate", "near-duplicate", "in the source's own validation or test set"


class LeftOut(NamedTuple):
    """A line of left_out.csv: an image whose content is in the set already."""

    path: str
    label: str
    sha256: str
    twin: str
    """Path of the image that stays."""
    why: str
    """`EXACT`, `NEAR` or `OF_OWN_SET`."""
    followed: str = "1"
    """1: a file of `fetch.path`, whose line goes with it; empty: `moco ingest` found it."""


class OldFormatError(MocoError):
    """The manifest is of an earlier version of this program."""


@dataclass(frozen=True)
class Listing:
    """Where the images of one listing are."""

    file: str
    source: str
    root: str | None
    """Where the paths start, as in the settings; None: beside the manifest."""
    followed: bool
    """Whether an image that its source no longer has goes; else only `moco forget` takes it out."""
    images: int
    """Other files included."""


@dataclass(frozen=True)
class Manifest:
    """What manifest.json holds: the images as a whole."""

    fetch: dict[str, Any]
    """The settings that the listings were split by, and the source of those that are followed."""
    classes: list[str]
    """In the order of their labels: one that arrives later comes last."""
    images: int
    other_files: int
    """Files whose names claim no image; sharding tries them, and mostly lists them as
    unreadable."""
    bytes: int
    """Of both."""
    splits: dict[str, dict[str, int]]
    """For each of train, val and test: how many `images`, and how many of them are `labelled`."""
    duplicates: int
    """Images left out because their content is in the set already."""
    duplicates_of_test: int
    """Of these, official training images that are in the official validation or test set, and
    official validation images that are in the test set."""
    changes: int
    """Times that images came or went; `removed.csv` counts by it."""
    listings: list[Listing] = field(default_factory=list)
    format: int = FORMAT

    @property
    def settings(self) -> Fetch:
        """The settings of `fetch`, as a model."""
        return Fetch(**self.fetch)


class Placed(NamedTuple):
    """A line of a listing and whether the image is still in the set."""

    listing: int
    line: int
    row: Row
    removed: int
    """The change that took the image out, counted from 1; 0: it is there."""
    places: tuple[Place, ...] = ()
    """Where it is besides, or now."""


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        MocoError: there is none, or it is damaged, or of an earlier version of this program.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise OldFormatError(f"{path}: of an earlier version of this program; run `dvc repro fetch` first")
        return Manifest(**{**values, "listings": [Listing(**listing) for listing in values["listings"]]})
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run `dvc repro fetch` first") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MocoError(f"{path}: damaged ({error}); {RESTORE}") from None


def as_json(manifest: Manifest) -> dict[str, Any]:
    """Give what manifest.json holds."""
    return asdict(manifest)


def lines(folder: Path, manifest: Manifest, removed: Mapping[tuple[int, int], int] | None = None) -> Iterator[Placed]:
    """Stream the lines of every listing in order, with those whose image was taken out.

    Args:
        folder: of the manifest.
        manifest: what it says.
        removed: the lines that were taken out, where they are known already.

    Raises:
        MocoError: a listing is missing or damaged.
    """
    removed = read_removed(folder) if removed is None else removed
    places = read_places(folder)
    place = next(places, None)
    for number, listing in enumerate(manifest.listings):
        for line, row in enumerate(read_listing(folder / listing.file)):
            mine = []
            while place is not None and place[:2] <= (number, line):
                mine.append(place)
                place = next(places, None)
            yield Placed(number, line, row, removed.get((number, line), 0), tuple(mine))


def read_together(folder: Path) -> tuple[Manifest, dict[tuple[int, int], int]]:
    """Read the manifest and the lines taken out of it, of one moment.

    Another process may replace the folder in between, and each change has another number.
    """
    while True:
        manifest, removed = read_manifest(folder), read_removed(folder)
        if read_manifest(folder) == manifest:
            return manifest, removed


def stays(folder: Path, manifest: Manifest) -> int:
    """Count the images that stay whatever `fetch.path` holds: those that `moco ingest` found."""
    ingested = sum(listing.images for listing in manifest.listings if not listing.followed)
    return ingested + sum(
        not place.followed and manifest.listings[place.listing].followed for place in read_places(folder)
    )


def read_removed(folder: Path) -> dict[tuple[int, int], int]:
    """Read which lines were taken out: (listing, line) -> the change that did it."""
    path = folder / REMOVED
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = list(csv.reader(file))[1:]
        return {(int(listing), int(line)): int(change) for listing, line, change in found}
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error) as error:
        raise MocoError(f"{path}: damaged ({error}); {RESTORE}") from None


def read_left_out(folder: Path) -> list[LeftOut]:
    """Read what was left out, and for which image."""
    path = folder / LEFT_OUT
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [LeftOut(*line) for line in list(csv.reader(file))[1:]]
    except FileNotFoundError:
        return []
    except (TypeError, csv.Error) as error:
        raise MocoError(f"{path}: damaged ({error}); {RESTORE}") from None


def read_forgotten(folder: Path) -> set[str]:
    """Read the SHA-256 of the images that were taken out on request, and do not come back."""
    path = folder / FORGOTTEN
    return set(path.read_text(encoding="ascii").split()[1:]) if path.exists() else set()
