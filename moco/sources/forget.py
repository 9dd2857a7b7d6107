"""Take images out, on request or beside a near-duplicate, and never take them in again."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from moco import npy
from moco.config import SPLITS
from moco.errors import MocoError
from moco.files import copy_file, link_file, whole_folder, write_json, write_table
from moco.images.index import sample_key
from moco.sources.compare import Count
from moco.sources.listing import RESTORE, Row
from moco.sources.manifest import (
    FORGOTTEN,
    LEFT_OUT,
    MANIFEST,
    NEAR,
    OF_OWN_SET,
    REMOVED,
    LeftOut,
    Placed,
    as_json,
    lines,
    read_forgotten,
    read_left_out,
    read_manifest,
    read_removed,
)
from moco.sources.names import is_image_name
from moco.sources.places import PLACES, read_places, write_places


def forget(raw: Path, names: Collection[str]) -> list[Placed]:
    """Take images out of the manifest; their content is refused from now on.

    Args:
        raw: folder of the manifest, replaced as a whole.
        names: of each image its key (16 hexadecimal digits), SHA-256, or path: in a listing, where
            it is now, or in left_out.csv.

    Returns:
        The lines of these contents: those that are taken out now, and those that were out before.

    Raises:
        MocoError: a name is of no image; nothing is changed.
    """
    listed, forgotten = read_left_out(raw), read_forgotten(raw)
    found = _find(raw, set(names), listed)
    contents = {placed.row.sha256 for placed in found if placed.row.sha256}
    left_out = [line for line in listed if line.sha256 not in contents]
    there = [placed for placed in found if not placed.removed]
    if there or not contents <= forgotten or left_out != listed:
        _write(raw, there, left_out, forgotten | contents)
    return found


def leave_out(raw: Path, twins: Mapping[str, str]) -> list[Row]:
    """Take near-duplicates out of the manifest, and list each with its twin.

    Args:
        raw: folder of the manifest, replaced as a whole.
        twins: key of an image -> key of the one that stays.

    Returns:
        The images that were taken out.

    Raises:
        MocoError: a key is of no image in the set; nothing is changed.
    """
    found = [placed for placed in _find(raw, twins.keys()) if not placed.removed]
    path_of = {sample_key(placed.row.key): placed.row.path for placed in _find(raw, set(twins.values()))}
    left_out = {*read_left_out(raw)}
    for placed in found:
        row = placed.row
        left_out.add(LeftOut(row.path, row.label, row.sha256, path_of[twins[sample_key(row.key)]], NEAR, ""))
    _write(raw, found, sorted(left_out), read_forgotten(raw))
    return [placed.row for placed in found]


def _write(raw: Path, out: list[Placed], left_out: list[LeftOut], forgotten: Collection[str]) -> None:
    manifest = read_manifest(raw)
    rest = Count.of_manifest(manifest) - _count([placed.row for placed in out])
    if not rest.splits["train"]["images"]:
        raise MocoError(
            f"{raw}: no training image would be left; `moco fetch --begin-again` with other images in fetch.path begins again"
        )
    removed = [(*line, change) for line, change in read_removed(raw).items()]
    removed += [(placed.listing, placed.line, manifest.changes + 1) for placed in out]
    own = sum(line.why == OF_OWN_SET for line in left_out)
    after = replace(
        manifest,
        images=rest.images,
        other_files=rest.others,
        bytes=rest.bytes,
        splits=rest.splits,
        duplicates=len(left_out) - own,
        duplicates_of_test=own,
        changes=manifest.changes + 1,
    )
    gone = {(listing, line) for listing, line, _ in removed}
    with whole_folder(raw) as part:
        for file in raw.iterdir():
            if file.suffix == ".npy":
                _copy_without(file, part / file.name, forgotten)
            elif file.name not in (MANIFEST, REMOVED, LEFT_OUT, FORGOTTEN, PLACES):
                link_file(file, part / file.name)
        write_places(part, (place for place in read_places(raw) if place[:2] not in gone))
        write_table(part / REMOVED, ("listing", "line", "change"), sorted(removed))
        write_table(part / LEFT_OUT, LeftOut._fields, left_out)
        write_table(part / FORGOTTEN, ("sha256",), [(content,) for content in sorted(forgotten)])
        write_json(part / MANIFEST, as_json(after))


def _copy_without(source: Path, target: Path, forgotten: Collection[str]) -> None:
    """Copy an array of images with zeros for some; link it where it holds none of these."""
    images = npy.mapped(source)
    if images is None:
        raise MocoError(f"{source}: damaged; {RESTORE}")
    rows = [row for row, image in enumerate(images) if hashlib.sha256(image.tobytes()).hexdigest() in forgotten]
    if not rows:
        link_file(source, target)
        return
    copy_file(source, target)
    np.load(target, mmap_mode="r+")[rows] = 0


def _find(raw: Path, names: Set[str], left_out: Collection[LeftOut] = ()) -> list[Placed]:
    """Find all lines of some contents, also of images that are out of the set.

    A path is that of the image that has it now; else of the one that had it.

    Raises:
        MocoError: a name is of no image, or a path of several.
    """
    manifest = read_manifest(raw)
    of_name: dict[str, dict[bool, set[str]]] = {name: {True: set(), False: set()} for name in names}
    for line in left_out:
        for name in names & {line.path, line.sha256, line.sha256[:16]}:
            of_name[name][line.why != NEAR].add(line.sha256)
    for placed in lines(raw, manifest):
        row, paths = placed.row, {place.path for place in placed.places}
        for name in names & {row.path, *paths, row.sha256, *([sample_key(row.key)] if row.sha256 else [])}:
            of_name[name][not placed.removed].add(row.sha256 or row.path)
    found = {name: contents[True] or contents[False] for name, contents in of_name.items()}
    if missing := sorted(name for name, contents in found.items() if not contents):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise MocoError(
            f"{missing[0]!r}{more}: no image in {raw} has this key, SHA-256 or path; `moco neighbors` and the shards' JSON"
            " files show keys"
        )
    for name, contents in found.items():
        if len(contents) > 1:
            raise MocoError(f"{name!r}: several images came with this path; name them by their keys")
    wanted = {content for contents in found.values() for content in contents}
    return [placed for placed in lines(raw, manifest) if (placed.row.sha256 or placed.row.path) in wanted]


def _count(rows: list[Row]) -> Count:
    of: Counter[tuple[int, str]] = Counter()
    for row in rows:
        place = SPLITS.index(row.split)
        image = row.row is not None or is_image_name(row.path)
        of[place, "bytes"] += row.bytes
        of[place, "images" if image else "others"] += 1
        of[place, "labelled"] += image and bool(row.label)
    return Count(of)
