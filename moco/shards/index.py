"""The index beside the shards: writing it, and checking that nothing has changed since."""

import json
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco import npy
from moco.config import SPLITS, Split
from moco.errors import MocoError
from moco.files import file_sha256, move_file, part_of, write_text
from moco.images.index import (
    COLUMNS_OF_NOTES,
    ENTRY,
    FORMAT,
    PartOfIndex,
    ShardOfIndex,
    hash_of_set,
    load_index,
    read_index,
)
from moco.shards.earlier import Earlier

MOST_PARTS = 16
"""Parts of a split's index; the next one makes one of all, so that opening a set stays quick."""


@dataclass(frozen=True)
class Piece:
    """A shard of the set: kept, or written by this run.

    Attributes:
        split: its.
        name: of the tar.
        made_of: as in `moco.shards.plan.Planned`.
        kept: whether it was there.
    """

    split: Split
    name: str
    made_of: str
    kept: bool


def write_index(folder: Path, notes: Path, classes: list[str], pieces: list[Piece], earlier: Earlier) -> dict[str, Any]:
    """Write the parts of the index, quarantine.jsonl and index.json beside finished tars.

    index.json comes last, and what it named before stays: whoever is killed in between leaves the
    set as it was.

    Args:
        folder: where the tars lie.
        notes: for each tar NAME.tar written now a file of that name + `.json`, which holds what
            `moco.shards.tars.write_tar` returned.
        classes: names of the labels.
        pieces: the shards, in order.
        earlier: where those come from that are kept.

    Returns:
        images and quarantined; for each split its images, shards and bytes.

    Raises:
        MocoError: the training split is empty.
    """
    splits: dict[Split, Any] = {}
    quarantine: list[tuple[str, str, str]] = []
    for split in SPLITS:
        mine = [piece for piece in pieces if piece.split == split]
        found = [_described(piece, notes, earlier) for piece in mine]
        parts = _kept_parts(split, mine, earlier)
        first = sum(part.shards for part in parts)
        if first < len(mine) or not parts:
            if len(parts) == MOST_PARTS:
                parts, first = [], 0
            taken = {part.file for part in earlier.parts.get(split, []) if folder == earlier.folder}
            samples = [stated["samples"] for stated, _ in found[first:]]
            entries = (_entries(piece, notes, earlier) for piece in mine[first:])
            parts.append(_write_part(folder, split, first, samples, entries, taken))
        quarantine += [(bad["path"], bad["reason"], stated["file"]) for stated, all_bad in found for bad in all_bad]
        splits[split] = {
            "samples": sum(part.samples for part in parts),
            "parts": [part.model_dump() for part in parts],
            "shards": [stated for stated, _ in found],
        }
    if not splits["train"]["samples"]:
        raise MocoError("shard: no image of the training split can be read; check that fetch.path names images")
    hashes = {split: [shard["sha256"] for shard in splits[split]["shards"]] for split in SPLITS}
    index = {
        "format": FORMAT,
        "data_hash": hash_of_set(classes, hashes),
        "classes": classes,
        "quarantined": len(quarantine),
        "splits": splits,
    }
    before = {(bad["path"], bad["reason"], tar) for tar, all_bad in earlier.quarantine.items() for bad in all_bad}
    _write_quarantine(folder, [*quarantine, *before.difference(quarantine)])  # right for either index.json
    write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")
    if not before.issubset(quarantine):
        _write_quarantine(folder, quarantine)
    return {
        "images": sum(splits[split]["samples"] for split in SPLITS),
        **{
            split: {
                "images": splits[split]["samples"],
                "shards": len(splits[split]["shards"]),
                "bytes": sum(shard["bytes"] for shard in splits[split]["shards"]),
            }
            for split in SPLITS
        },
        "quarantined": len(quarantine),
    }


def _kept_parts(split: Split, pieces: list[Piece], earlier: Earlier) -> list[PartOfIndex]:
    """Give the first parts of the earlier index whose tars all stay at their places."""
    parts, place = list[PartOfIndex](), 0
    if not earlier.stays:
        return parts
    for part in earlier.parts.get(split, []):
        if not part.shards:
            return parts if pieces else [part]
        end = place + part.shards
        mine = enumerate(pieces[place:end], place)
        if end > len(pieces) or not all(
            piece.kept and earlier.shards[piece.made_of][:2] == (split, i) for i, piece in mine
        ):
            break
        parts, place = [*parts, part], end
    return parts


def _write_part(
    folder: Path, split: Split, first: int, samples: list[int], tars: Iterable[NDArray[Any]], taken: Set[str]
) -> PartOfIndex:
    """Write the lines of a split's tars from number `first` on to a file of their own.

    A name that index.json gives to other lines until it is written is not taken: theirs then has
    their hash.
    """
    name = f"{split}{f'-{first:06d}' if first else ''}.index.npy"
    part = part_of(folder / name)
    try:
        with part.open("wb") as written:
            npy.begin(written, ENTRY, (sum(samples),))
            for number, entries in enumerate(tars, first):
                entries["shard"] = number
                written.write(entries.tobytes())
        digest = file_sha256(part)
        if name in taken:
            name = f"{split}-{first:06d}-{digest[:8]}.index.npy"
        move_file(part, folder / name)
    finally:
        part.unlink(missing_ok=True)
    return PartOfIndex(file=name, samples=sum(samples), shards=len(samples), sha256=digest)


def _write_quarantine(folder: Path, found: list[tuple[str, str, str]]) -> None:
    lines = (json.dumps(dict(zip(("path", "reason", "shard"), line, strict=True))) + "\n" for line in sorted(found))
    write_text(folder / "quarantine.jsonl", "".join(lines))


def _described(piece: Piece, notes: Path, earlier: Earlier) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Give a shard's entry in index.json, and what it left out."""
    if piece.kept:
        return earlier.shards[piece.made_of][2].model_dump(), earlier.quarantine.get(piece.name, [])
    note = _note(piece, notes)
    stated = {name: note[name] for name in ("samples", "bytes", "sha256")}
    return {"file": piece.name, **stated, "made_of": piece.made_of}, note["quarantine"]


def _entries(piece: Piece, notes: Path, earlier: Earlier) -> NDArray[Any]:
    """Give a shard's lines of the index, as an array that may be written to."""
    if piece.kept:
        return earlier.lines_of(piece.made_of).copy()
    note = _note(piece, notes)
    entries = np.empty(note["samples"], ENTRY)
    for column, values in zip(COLUMNS_OF_NOTES, zip(*note["index"], strict=True), strict=False):
        entries[column] = values
    return entries


def _note(piece: Piece, notes: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((notes / f"{piece.name}.json").read_bytes())
    return found


def verify(folder: Path | str) -> list[str]:
    """Recompute every SHA-256 and count of a shard set.

    Returns:
        One line a problem, naming its file; empty if the set is as it was written.

    Raises:
        MocoError: there is no index to check against, or it is damaged itself.
    """
    folder = Path(folder)
    index = read_index(folder)
    problems: list[str] = []
    listed = [(folder / shard.file, shard) for split in SPLITS for shard in index.splits[split].shards]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda pair: _check_shard(*pair), listed):
            problems += found
    for extra in sorted(set(folder.glob("*.tar")) - {path for path, _ in listed}):
        problems.append(f"{extra}: not in the index")
    for split in SPLITS:
        place = 0
        for part in index.splits[split].parts:
            shards = index.splits[split].shards[place : place + part.shards]
            problems += _check_part(folder / part.file, part, place, [shard.samples for shard in shards])
            place += part.shards
    return problems


def _check_shard(path: Path, shard: ShardOfIndex) -> Iterable[str]:
    if not path.is_file():
        return [f"{path}: {'is no file' if path.exists() else 'missing'}"]
    if path.stat().st_size != shard.bytes:
        return [f"{path}: {path.stat().st_size} bytes, the index says {shard.bytes}"]
    if file_sha256(path) != shard.sha256:
        return [f"{path}: its content has changed (SHA-256 differs)"]
    return []


def _check_part(path: Path, stated: PartOfIndex, first: int, samples: list[int]) -> Iterable[str]:
    """Check a part of the index whose tars, from number `first` on, hold `samples`."""
    try:
        entries = load_index(path)
    except MocoError as error:
        return [str(error)]
    if len(entries) != stated.samples:
        return [f"{path}: {len(entries)} images, index.json says {stated.samples}"]
    if file_sha256(path) != stated.sha256:
        return [f"{path}: its content has changed (SHA-256 differs)"]
    of_shard = entries["shard"]  # counted only now: a damaged number would ask for that many counts
    if of_shard.size and (of_shard.max() >= first + len(samples) or of_shard.min() < first):
        wrong = of_shard.max() if of_shard.max() >= first + len(samples) else of_shard.min()
        return [f"{path}: names shard {wrong}, its own are {first} to {first + len(samples) - 1}"]
    if np.bincount(of_shard - first, minlength=len(samples)).tolist() != samples:
        return [f"{path}: images by shard are not as index.json says"]
    return []
