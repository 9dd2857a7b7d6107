"""The index beside the shards: any image by its number in one read."""

import hashlib
import json
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator

from moco import npy
from moco.config import SPLITS, Split
from moco.errors import MocoError, first_line
from moco.files import file_sha256

FORMAT = 2
ENTRY = np.dtype([("offset", "<u8"), ("key", "<u8"), ("size", "<u4"), ("shard", "<u4"), ("label", "<i4")])
"""A line of SPLIT.index.npy, or of a further part of a split's index.

offset, size: the image's bytes in its tar; key: the first 64 bits of the SHA-256 of its content as
it was found; shard: position of the tar in index.json; label: class number or -1."""
COLUMNS_OF_NOTES = ("offset", "size", "label", "key")
OPEN_FILES = min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
"""That a process keeps open, of those that the system allows it; beyond, each read opens one."""


def sample_key(key: int) -> str:
    """Return the WebDataset key of an image: its files' names in the tar without extension."""
    return f"{key:016x}"


@dataclass
class ShardSet:
    """The images of one split, by number from 0.

    Safe to pickle, to fork and to use from threads: each process opens files when it reads.
    """

    folder: Path
    split: Split
    classes: list[str]
    """Names; their positions are the labels."""
    shards: list[str]
    """File names of the tars."""
    data_hash: str
    """Hash of the whole set, all splits: 64 hexadecimal digits."""
    parts: tuple[str, ...] = ()
    """File names of the index, in order; none: SPLIT.index.npy alone."""
    chosen: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    """Lines of the index that belong to this set, ascending; None: all."""
    _files: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def entries(self) -> NDArray[Any]:
        """The index, `ENTRY` [N]: memory-mapped, or a copy of several parts or some lines."""
        parts = [load_index(self.folder / name) for name in self.parts or [f"{self.split}.index.npy"]]
        entries = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return entries if self.chosen is None else entries[self.chosen]

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32 [N]; -1 = unlabelled."""
        return np.ascontiguousarray(self.entries["label"], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, i: int) -> str:
        """Return the WebDataset key of image `i`."""
        return sample_key(int(self.entries["key"][i]))

    def read(self, i: int) -> bytes:
        """Read the encoded bytes (JPEG, PNG or WebP) of image `i`.

        Raises:
            MocoError: the tar is missing or shorter than the index says.
        """
        offsets, sizes, shards = self._places
        shard, size = shards.item(i), sizes.item(i)
        if shard >= len(self.shards):
            raise MocoError(f"{self.folder}/{self.split}.index.npy: damaged (image {i} is in shard {shard}); {REMAKE}")
        try:
            data = self._pread(shard, size, offsets.item(i))
        except OSError as error:
            raise MocoError(
                f"{self.folder / self.shards[shard]}: cannot be read ({error.strerror}); {REMAKE}"
            ) from None
        if len(data) != size:
            raise MocoError(f"{self.folder / self.shards[shard]}: is shorter than its index says; {REMAKE}")
        return data

    @cached_property
    def _places(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Offset, size and shard of every image; columns are read 10 times as fast as rows."""
        return self.entries["offset"], self.entries["size"], self.entries["shard"]

    def _pread(self, shard: int, size: int, offset: int) -> bytes:
        file = self._files.get(shard)
        if file is None:
            file = os.open(self.folder / self.shards[shard], os.O_RDONLY | os.O_NONBLOCK)  # a pipe is no end of waiting
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
        state = {name: value for name, value in self.__dict__.items() if name not in ("entries", "labels", "_places")}
        return {**state, "_files": {}}

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)


def open_split(folder: Path | str, split: Split) -> ShardSet:
    """Open one split of a shard set, in milliseconds for a million images.

    Args:
        folder: where index.json lies, data/shards in the project.
        split: train, val or test.

    Raises:
        MocoError: there is no index, it is damaged, or it is of another format version.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise MocoError(f"{folder}: no split {split!r}; the splits are {', '.join(SPLITS)}")
    index = read_index(folder)
    stated = index.splits[split]
    for part in stated.parts:
        path = folder / part.file
        found = len(load_index(path))
        if found != part.samples or (path.stat().st_size <= CHECKED_AT_ONCE and file_sha256(path) != part.sha256):
            raise MocoError(f"{path}: damaged, or not of this index.json ({found} images of {part.samples}); {REMAKE}")
    names = [shard.file for shard in stated.shards]
    return ShardSet(folder, split, index.classes, names, index.data_hash, tuple(part.file for part in stated.parts))


CHECKED_AT_ONCE = 64 * 10**6
"""Bytes of a part of the index up to which its checksum is computed at each opening (2.6 million
images, 40 ms); `moco verify` checks larger ones."""
REMAKE = "`dvc checkout` restores it, or run `dvc repro --force shard`"


class ShardOfIndex(BaseModel):
    """One tar of a split."""

    file: str = Field(pattern=r"^[^/\x00]+\.tar$")
    samples: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str
    made_of: str
    """Hash of the manifest's lines that it was cut from, and of how their images are stored."""


class PartOfIndex(BaseModel):
    """A file of the index: the lines of some tars of a split that follow each other."""

    file: str = Field(pattern=r"^[^/\x00]+\.index\.npy$")
    samples: int = Field(ge=0)
    shards: int = Field(ge=0)
    """How many tars."""
    sha256: str


class SplitOfIndex(BaseModel):
    """The tars of a split and the files of its index, in order."""

    samples: int = Field(ge=0)
    parts: list[PartOfIndex] = Field(min_length=1)
    shards: list[ShardOfIndex]

    @model_validator(mode="after")
    def _adds_up(self) -> "SplitOfIndex":
        for name, parts in (
            ("samples", sum(part.samples for part in self.parts)),
            ("images of shards", sum(shard.samples for shard in self.shards)),
        ):
            if parts != self.samples:
                raise ValueError(f"{parts} {name}, not {self.samples}")
        if sum(part.shards for part in self.parts) != len(self.shards):
            raise ValueError(f"its parts are not of {len(self.shards)} shards")
        return self


class Index(BaseModel):
    """What index.json holds."""

    format: int
    data_hash: str
    classes: list[str]
    quarantined: int
    splits: dict[Split, SplitOfIndex]

    @model_validator(mode="after")
    def _whole(self) -> "Index":
        if missing := [split for split in SPLITS if split not in self.splits]:
            raise ValueError(f"splits: lacks {', '.join(missing)}")
        hashes = {split: [shard.sha256 for shard in self.splits[split].shards] for split in SPLITS}
        if hash_of_set(self.classes, hashes) != self.data_hash:
            raise ValueError("its data_hash does not follow from its classes and shards")
        return self


def hash_of_set(classes: list[str], shard_hashes: Mapping[Split, list[str]]) -> str:
    """Hash a shard set: its class names and, for each split, the SHA-256 of each tar in order."""
    text = json.dumps([classes, [[split, shard_hashes[split]] for split in SPLITS]])
    return hashlib.sha256(text.encode()).hexdigest()


def read_index(folder: Path) -> Index:
    """Read index.json; errors as in `open_split`."""
    path = folder / "index.json"
    try:
        # Not by pydantic's reader, which refuses half a surrogate pair in a class's name.
        index = Index.model_validate(json.loads(path.read_bytes()), strict=True)
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run `dvc repro shard` first") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise MocoError(f"{path}: damaged ({f'{where}: ' if where else ''}{first['msg']}); {REMAKE}") from None
    except (ValueError, RecursionError) as error:
        raise MocoError(f"{path}: damaged ({first_line(error)}); {REMAKE}") from None
    if index.format != FORMAT:
        raise MocoError(f"{path}: format {index.format}, expected {FORMAT}; run `dvc repro --force shard`")
    return index


def load_index(path: Path) -> NDArray[Any]:
    """Map a part of an index, an array of `ENTRY`; errors as in `open_split`."""
    try:
        entries = npy.mapped(path)
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run `dvc repro shard`") from None
    if entries is None or entries.dtype != ENTRY or entries.ndim != 1:
        raise MocoError(f"{path}: damaged, or of another program; {REMAKE}")
    return entries
