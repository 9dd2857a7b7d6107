"""The index beside the shards: writing it, and checking that nothing has changed since."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import SPLITS, Split
from moco.errors import MocoError
from moco.files import file_sha256
from moco.images.index import COLUMNS_OF_NOTES, ENTRY, FORMAT, load_index, read_index


def hash_of_set(classes: list[str], shard_hashes: Mapping[Split, list[str]]) -> str:
    """Hash a shard set: its class names and, for each split, the SHA-256 of each tar in order."""
    text = json.dumps([classes, [[split, shard_hashes[split]] for split in SPLITS]])
    return hashlib.sha256(text.encode()).hexdigest()


def write_index(folder: Path, notes: Path, classes: list[str], samples: Mapping[Split, int]) -> dict[str, Any]:
    """Write SPLIT.index.npy, index.json and quarantine.jsonl beside finished tars.

    Args:
        folder: where the tars lie.
        notes: for each tar SPLIT-NNNNNN.tar a file of that name + `.json`, which holds what
            `moco.shards.tars.write_tar` returned.
        classes: names of the labels.
        samples: how many images each split's notes list together.

    Returns:
        images and quarantined; for each split its images, shards and bytes.

    Raises:
        MocoError: the training split is empty.
    """
    splits: dict[Split, Any] = {}
    quarantine: list[tuple[str, str]] = []
    for split in SPLITS:
        shards: list[dict[str, Any]] = []
        path, start = folder / f"{split}.index.npy", 0
        entries = _new_index(path, samples[split])
        for number, file in enumerate(sorted(notes.glob(f"{split}-*.json"))):
            note = json.loads(file.read_bytes())
            end = start + note["samples"]
            for column, values in zip(COLUMNS_OF_NOTES, zip(*note["index"], strict=True), strict=False):
                entries[column][start:end] = values
            entries["shard"][start:end] = number
            quarantine += [(bad["path"], bad["reason"]) for bad in note["quarantine"]]
            shards.append({"file": file.stem, **{name: note[name] for name in ("samples", "bytes", "sha256")}})
            start = end
        if isinstance(entries, np.memmap):
            entries.flush()
        splits[split] = {"samples": start, "index_sha256": file_sha256(path), "shards": shards}
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
    lines = (json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in sorted(quarantine))
    (folder / "quarantine.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
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


def _new_index(path: Path, samples: int) -> NDArray[Any]:
    if samples:
        return np.lib.format.open_memmap(path, mode="w+", dtype=ENTRY, shape=(samples,))
    entries = np.empty(0, ENTRY)  # numpy maps no empty file for writing
    np.save(path, entries)
    return entries


def verify(folder: Path | str) -> list[str]:
    """Recompute every SHA-256 and count of a shard set.

    Returns:
        One line a problem, naming its file; empty if the set is as it was written.

    Raises:
        MocoError: there is no index to check against.
    """
    folder = Path(folder)
    index = read_index(folder)
    splits = index["splits"]
    problems: list[str] = []
    listed = [(folder / shard["file"], shard) for split in SPLITS for shard in splits[split]["shards"]]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda pair: _check_shard(*pair), listed):
            problems += found
    for extra in sorted(set(folder.glob("*.tar")) - {path for path, _ in listed}):
        problems.append(f"{extra}: not in the index")
    for split in SPLITS:
        problems += _check_entries(folder, split, splits[split])
    hashes = {split: [shard["sha256"] for shard in splits[split]["shards"]] for split in SPLITS}
    if hash_of_set(index["classes"], hashes) != index["data_hash"]:
        problems.append(f"{folder / 'index.json'}: its data_hash does not follow from its shards")
    return problems


def _check_shard(path: Path, shard: dict[str, Any]) -> Iterable[str]:
    if not path.is_file():
        return [f"{path}: missing"]
    if path.stat().st_size != shard["bytes"]:
        return [f"{path}: {path.stat().st_size} bytes, the index says {shard['bytes']}"]
    if file_sha256(path) != shard["sha256"]:
        return [f"{path}: its content has changed (SHA-256 differs)"]
    return []


def _check_entries(folder: Path, split: Split, stated: dict[str, Any]) -> Iterable[str]:
    path = folder / f"{split}.index.npy"
    try:
        entries = load_index(path)
    except MocoError as error:
        return [str(error)]
    counts = np.bincount(entries["shard"], minlength=len(stated["shards"])).tolist()
    if counts != [shard["samples"] for shard in stated["shards"]] or len(entries) != stated["samples"]:
        return [f"{path}: {len(entries)} images, index.json says {stated['samples']}, or by shard they differ"]
    if file_sha256(path) != stated["index_sha256"]:
        return [f"{path}: its content has changed (SHA-256 differs)"]
    return []
