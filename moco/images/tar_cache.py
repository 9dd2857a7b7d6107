"""Whole tars kept on this host's disk, up to a bound; one process of the host fetches them."""

import fcntl
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moco.errors import MocoError
from moco.files import part_of
from moco.images.index import ShardSet
from moco.images.tar_source import Source

PIECE = 8 * 2**20  # bytes that are asked for at once
LOOK_SECONDS = 5.0
"""How often a process looks which tars the other one has fetched."""


@dataclass
class TarCache:
    """The tars of a shard set that are here. Safe to pickle and to fork.

    Attributes:
        folder: of the tars.
        limit: bytes that it may hold.
    """

    folder: Path
    limit: int
    _files: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    _process: int = field(default=0, repr=False, compare=False)

    def part(self, shard: str, first: int, last: int) -> bytes | None:
        """Read bytes first to last - 1 of a tar; None: it is not here."""
        file = self._files.get(shard)
        return None if file is None else os.pread(file, last - first, first)

    def fill(self, images: ShardSet, source: Source) -> None:
        """Begin to look for tars, and to fetch them if no other process of this host does."""
        self._files, self._process = {}, os.getpid()
        self._open()
        threading.Thread(target=self._work, args=(images, source), daemon=True).start()

    def _work(self, images: ShardSet, source: Source) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            while True:
                # Another process fetches, the disk is full, or the source is away: next time.
                with suppress(OSError, EOFError, MocoError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._fetch(images, source)
                self._open()
                threading.Event().wait(LOOK_SECONDS)

    def _fetch(self, images: ShardSet, source: Source) -> None:
        held = sum(path.stat().st_size for path in self.folder.glob("*.tar"))
        for shard, end in zip(images.shards, ends(images), strict=True):
            path = self.folder / shard
            if path.exists():
                continue
            if held + end > self.limit:
                break
            part = part_of(path)
            with part.open("wb") as file:
                for first in range(0, end, PIECE):
                    file.write(source.part(shard, first, min(end, first + PIECE)))
            part.replace(path)
            held += end
            self._open()

    def _open(self) -> None:
        for path in self.folder.glob("*.tar"):
            if path.name not in self._files:
                self._files[path.name] = os.open(path, os.O_RDONLY)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit": self.limit, "_files": {}, "_process": 0}


def ends(images: ShardSet) -> list[int]:
    """Give the bytes of each tar up to its last image."""
    entries, found = images.entries, np.zeros(len(images.shards), np.int64)
    np.maximum.at(found, entries["shard"], entries["offset"].astype(np.int64) + entries["size"])
    return [int(end) for end in found]
