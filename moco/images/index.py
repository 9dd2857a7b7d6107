"""The index beside the shards: any image by its number in one read, and the check that nothing changed."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.images.splits import SPLITS, Split

FORMAT = 1
ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("shard", "<u4"), ("label", "<i4"), ("ordinal", "<u4")])
"""A line of SPLIT.index.npy. offset, size: the image's bytes in its tar; shard: number of the tar in the
split; label: class number or -1; ordinal: position in the split's part of the manifest, where unreadable
images leave gaps."""
COLUMNS_OF_NOTES = ("offset", "size", "label", "ordinal")
OPEN_FILES = 512  # kept open by a process; the usual limit is 1024, and sets of more shards open one a read


def key_of(split: str, ordinal: int) -> str:
    """The WebDataset key of an image: its files' names in the tar without their extensions."""
    return f"{split}-{ordinal:09d}"


@dataclass
class ShardSet:
    """The images of one split, by number from 0.

    Safe to pickle, to fork and to use from threads: files are opened where and when they are read.
    """

    folder: Path
    split: Split
    classes: list[str]
    """Names; their positions are the labels."""
    shards: list[str]
    """File names of the tars."""
    data_hash: str
    """Hash of the whole set, all splits: 64 hexadecimal digits."""
    chosen: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    """Lines of the index that belong to this set, ascending; None: all."""
    _files: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def entries(self) -> NDArray[Any]:
        """The index, structured array of `ENTRY`, one an image: memory-mapped, or a copy of the chosen lines."""
        entries = _load_index(self.folder / f"{self.split}.index.npy")
        return entries if self.chosen is None else entries[self.chosen]

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32 [N]; -1 = unlabelled."""
        return np.ascontiguousarray(self.entries["label"], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, i: int) -> str:
        """The WebDataset key of image `i`."""
        return key_of(self.split, int(self.entries["ordinal"][i]))

    def read(self, i: int) -> bytes:
        """The encoded bytes (JPEG, PNG or WebP) of image `i`.

        Raises:
            MocoError: the tar is missing or shorter than the index says.
        """
        offsets, sizes, shards = self._places
        shard, size = shards.item(i), sizes.item(i)
        try:
            data = self._pread(shard, size, offsets.item(i))
        except OSError as error:
            raise MocoError(
                f"{self.folder / self.shards[shard]}: cannot be read ({error.strerror}); run `dvc repro shard`"
            ) from None
        if len(data) != size:
            raise MocoError(
                f"{self.folder / self.shards[shard]}: is shorter than its index says; run `dvc repro --force shard`"
            )
        return data

    @cached_property
    def _places(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Offset, size and shard of every image: a number of a column takes a tenth of the time that a row does."""
        return self.entries["offset"], self.entries["size"], self.entries["shard"]

    def _pread(self, shard: int, size: int, offset: int) -> bytes:
        file = self._files.get(shard)
        if file is None:
            file = os.open(self.folder / self.shards[shard], os.O_RDONLY)
            if len(self._files) >= OPEN_FILES:
                try:
                    return os.pread(file, size, offset)
                finally:
                    os.close(file)
            kept = self._files.setdefault(shard, file)
            if kept != file:  # another thread was faster
                os.close(file)
                file = kept
        return os.pread(file, size, offset)

    def __getstate__(self) -> dict[str, Any]:
        state = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("entries", "labels", "_places")
        }
        return {**state, "_files": {}}

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)


def open_split(folder: Path | str, split: Split) -> ShardSet:
    """Open one split of a shard set; a million images take milliseconds.

    Args:
        folder: where index.json lies, data/shards in the project.
        split: train, val or test.

    Raises:
        MocoError: there is no index, it is damaged, or it is of another format version.
    """
    folder = Path(folder)
    index = _read_index(folder)
    if split not in SPLITS:
        raise MocoError(f"{folder}: no split {split!r}; the splits are {', '.join(SPLITS)}")
    shards = [shard["file"] for shard in index["splits"][split]["shards"]]
    return ShardSet(folder, split, index["classes"], shards, index["data_hash"])


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = index["format"]
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run `dvc repro shard` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise MocoError(f"{path}: damaged ({error}); run `dvc repro --force shard`") from None
    if version != FORMAT:
        raise MocoError(f"{path}: format {version}, expected {FORMAT}; run `dvc repro --force shard`")
    return dict(index)


def _load_index(path: Path) -> NDArray[Any]:
    try:
        entries: NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run `dvc repro shard`") from None
    except (OSError, ValueError, EOFError) as error:
        raise MocoError(f"{path}: damaged ({error}); run `dvc repro --force shard`") from None
    if entries.dtype != ENTRY:
        raise MocoError(f"{path}: columns {entries.dtype}, expected {ENTRY}; run `dvc repro --force shard`")
    return entries


def hash_of_set(classes: list[str], shard_hashes: Mapping[Split, list[str]]) -> str:
    """The data hash: of the class names and, for each split, of the SHA-256s of its tars in order."""
    text = json.dumps([classes, [[split, shard_hashes[split]] for split in SPLITS]])
    return hashlib.sha256(text.encode()).hexdigest()


def write_index(
    folder: Path, notes: Path, classes: list[str], samples: Mapping[Split, int]
) -> dict[str, Any]:
    """Write SPLIT.index.npy, index.json and quarantine.jsonl beside finished tars.

    Args:
        folder: where the tars lie.
        notes: for each tar SPLIT-NNNNNN.tar a file of that name + `.json`: what `moco.images.tars.write_tar`
            returned.
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
            shards.append(
                {"file": file.stem, **{name: note[name] for name in ("samples", "bytes", "sha256")}}
            )
            start = end
        if isinstance(entries, np.memmap):
            entries.flush()
        splits[split] = {"samples": start, "index_sha256": file_sha256(path), "shards": shards}
    if not splits["train"]["samples"]:
        raise MocoError("shard: no image of the training split can be read; see that fetch.path names images")
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
    entries = np.empty(0, ENTRY)  # an empty file cannot be mapped for writing
    np.save(path, entries)
    return entries


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path | str) -> list[str]:
    """Recompute every SHA-256 and count of a shard set.

    Returns:
        One line a problem, each naming its file; empty if the set is as it was written.

    Raises:
        MocoError: there is no index to check against.
    """
    folder = Path(folder)
    index = _read_index(folder)
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
        entries = _load_index(path)
    except MocoError as error:
        return [str(error)]
    counts = np.bincount(entries["shard"], minlength=len(stated["shards"])).tolist()
    if counts != [shard["samples"] for shard in stated["shards"]] or len(entries) != stated["samples"]:
        return [
            f"{path}: {len(entries)} images, index.json says {stated['samples']}, or by shard they differ"
        ]
    if file_sha256(path) != stated["index_sha256"]:
        return [f"{path}: its content has changed (SHA-256 differs)"]
    return []
