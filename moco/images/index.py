"""The index beside the shards: any image by its number in one read."""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import SPLITS, Split
from moco.errors import MocoError

FORMAT = 1
ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("shard", "<u4"), ("label", "<i4"), ("ordinal", "<u4")])
"""A line of SPLIT.index.npy.

offset, size: the image's bytes in its tar; shard: number of the tar in the split; label: class
number or -1; ordinal: position in the split's part of the manifest, where unreadable images leave
gaps."""
COLUMNS_OF_NOTES = ("offset", "size", "label", "ordinal")
OPEN_FILES = 512  # that a process keeps open (the usual limit is 1024); beyond, each read opens one


def sample_key(split: str, ordinal: int) -> str:
    """Return the WebDataset key of an image: its files' names in the tar without extension."""
    return f"{split}-{ordinal:09d}"


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
    chosen: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    """Lines of the index that belong to this set, ascending; None: all."""
    _files: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def entries(self) -> NDArray[Any]:
        """The index, `ENTRY` [N]: memory-mapped, or a copy of the chosen lines."""
        entries = load_index(self.folder / f"{self.split}.index.npy")
        return entries if self.chosen is None else entries[self.chosen]

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32 [N]; -1 = unlabelled."""
        return np.ascontiguousarray(self.entries["label"], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, i: int) -> str:
        """Return the WebDataset key of image `i`."""
        return sample_key(self.split, int(self.entries["ordinal"][i]))

    def read(self, i: int) -> bytes:
        """Read the encoded bytes (JPEG, PNG or WebP) of image `i`.

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
        """Offset, size and shard of every image; columns are read 10 times as fast as rows."""
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
    index = read_index(folder)
    if split not in SPLITS:
        raise MocoError(f"{folder}: no split {split!r}; the splits are {', '.join(SPLITS)}")
    shards = [shard["file"] for shard in index["splits"][split]["shards"]]
    return ShardSet(folder, split, index["classes"], shards, index["data_hash"])


def read_index(folder: Path) -> dict[str, Any]:
    """Read index.json; errors as in `open_split`."""
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


def load_index(path: Path) -> NDArray[Any]:
    """Map SPLIT.index.npy, an array of `ENTRY`; errors as in `open_split`."""
    try:
        entries: NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run `dvc repro shard`") from None
    except (OSError, ValueError, EOFError) as error:
        raise MocoError(f"{path}: damaged ({error}); run `dvc repro --force shard`") from None
    if entries.dtype != ENTRY:
        raise MocoError(f"{path}: columns {entries.dtype}, expected {ENTRY}; run `dvc repro --force shard`")
    return entries
