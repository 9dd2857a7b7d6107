"""Images that arrive make a listing of their own; nothing that is there changes."""

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from moco.config import Fetch, Split
from moco.errors import MocoError
from moco.files import link_file, write_json, write_table
from moco.sources.compare import Arrivals, Count
from moco.sources.listing import Item, write_listing
from moco.sources.manifest import (
    FORGOTTEN,
    LEFT_OUT,
    MANIFEST,
    NEAR,
    OF_OWN_SET,
    REMOVED,
    LeftOut,
    Listing,
    Manifest,
    as_json,
    read_left_out,
    read_removed,
    stays,
)
from moco.sources.places import write_places

SPLIT_BY = ("split_seed", "val_fraction", "test_fraction")
"""Settings that decide an image's split."""


@dataclass(frozen=True)
class Arrival:
    """Images that come in at one time.

    Attributes:
        items: in any order.
        settings: seed and shares of the split.
        source: kind of source.
        root: where the items' paths start; None: beside the manifest.
        classes: names in the source's order; None: those found, in numerical or alphabetical order.
        own: the splits that the source has itself; no validation images are drawn beside its own.
        followed: whether images of earlier listings that are followed go if they are not here.
    """

    items: Iterable[Item]
    settings: Fetch
    source: str
    root: str | None
    classes: list[str] | None = None
    own: Collection[Split] = ()
    followed: bool = True


def grow(arrival: Arrival, folder: Path, raw: Path, before: Manifest | None = None) -> Manifest:
    """Write what the set is with these images: a new listing, and what they take out.

    The order within a split is pseudo-random, by a keyed hash of the content, so shards cut from it
    are well mixed. A scratch database on disk compares and sorts: memory does not grow with the
    number of images.

    Args:
        arrival: the images.
        folder: an existing folder; receives the whole manifest.
        raw: the folder of the manifest as it is.
        before: what it says; None: the set begins with these images. Where it was found by other
            settings, what is followed goes.

    Returns:
        The manifest; the same as before if nothing is new and nothing goes.

    Raises:
        MocoError: there are no images, none fell on the training side, a file has two labels, a
            group is in two splits, or images came by `moco ingest` with another split.
    """
    scratch = folder / "rows.sqlite"
    with closing(sqlite3.connect(scratch, isolation_level=None)) as database:
        arrivals = Arrivals(database, arrival.items, _settings(arrival), arrival.root, arrival.followed)
        if before is not None:
            _require_same_split(arrival, raw, before)
        arrivals.compare(raw, before, before is not None and before.fetch != arrival.settings.model_dump())
        manifest = _manifest(arrival, raw, before, arrivals)
        _write(folder, raw, before, manifest, arrivals)
    scratch.unlink()
    return manifest


def _settings(arrival: Arrival) -> Fetch:
    return arrival.settings.model_copy(update={"val_fraction": 0.0}) if "val" in arrival.own else arrival.settings


def _require_same_split(arrival: Arrival, raw: Path, before: Manifest) -> None:
    stay = stays(raw, before) if arrival.followed else before.images
    for name in SPLIT_BY:
        if stay and before.fetch[name] != getattr(arrival.settings, name):
            raise MocoError(
                f"fetch.{name} = {getattr(arrival.settings, name)}: {stay} images are there that were split by"
                f" {before.fetch[name]}; set it back, or `moco fetch --begin-again` and ingest them again"
            )


def _manifest(arrival: Arrival, raw: Path, before: Manifest | None, arrivals: Arrivals) -> Manifest:
    """Add up what was there, what is new and what goes."""
    new, gone = arrivals.new, arrivals.gone
    now = (Count.of_manifest(before) if before else Count()) + new - gone
    _require_images(arrival.settings, now)
    # Near-duplicates are refused whatever begins; of files that are followed `arrivals` tells. An
    # array that came earlier has another name than the same images have now.
    told = {"1"} if arrival.followed and arrival.root is not None else set[str]()
    kept = [line for line in read_left_out(raw) if line.why == NEAR or (before and line.followed not in told)]
    arrivals.left_out = sorted({*kept, *arrivals.left_out})
    own = sum(line.why == OF_OWN_SET for line in arrivals.left_out)
    classes = list(before.classes) if before else []
    found = arrivals.labels() if arrival.classes is None else arrival.classes
    listings = list(before.listings) if before else []
    if new.files:
        file = listing_file(len(listings))
        listings.append(Listing(file, arrival.source, arrival.root, arrival.followed, new.files))
    return Manifest(
        fetch=arrival.settings.model_dump() if arrival.followed or before is None else before.fetch,
        classes=classes + [name for name in found if name not in set(classes)],
        images=now.images,
        other_files=now.others,
        bytes=now.bytes,
        splits=now.splits,
        duplicates=len(arrivals.left_out) - own,
        duplicates_of_test=own,
        changes=(before.changes if before else 0) + bool(new.files or gone.files),
        listings=listings,
    )


def _require_images(settings: Fetch, now: Count) -> None:
    if not now.images:
        raise MocoError(
            f"fetch.path = {settings.path!r}: no images there ({now.others} other files); put images there, or correct it"
        )
    if not now.splits["train"]["images"]:
        raise MocoError(
            f"fetch.path = {settings.path!r}: none of the {now.images} images fell on the training side;"
            " add images, or lower fetch.val_fraction and fetch.test_fraction"
        )


def _write(folder: Path, raw: Path, before: Manifest | None, manifest: Manifest, arrivals: Arrivals) -> None:
    removed = [(*line, change) for line, change in read_removed(raw).items()] if before else []
    if (raw / FORGOTTEN).exists():  # whatever the set begins with
        link_file(raw / FORGOTTEN, folder / FORGOTTEN)
    for listing in before.listings if before else []:
        link_file(raw / listing.file, folder / listing.file)
        if listing.root is None:
            array = Path(listing.file).with_suffix(".npy")
            link_file(raw / array, folder / array)
    if arrivals.new.files:
        write_listing(folder / manifest.listings[-1].file, arrivals.rows())
    removed += [(*line, manifest.changes) for line in arrivals.lines_gone()]
    write_table(folder / REMOVED, ("listing", "line", "change"), sorted(removed))
    write_table(folder / LEFT_OUT, LeftOut._fields, arrivals.left_out)
    write_places(folder, arrivals.places(len(manifest.listings) - 1))
    write_json(folder / MANIFEST, as_json(manifest))


def listing_file(number: int) -> str:
    """Name a listing, counted from 0."""
    return f"{number:06d}.csv"


def array_file(before: Manifest | None) -> str:
    """Name the array of the images that come next, from a source of arrays."""
    return f"{len(before.listings) if before else 0:06d}.npy"
