"""Part 4: batches reach the GPU unchanged, however late it computes on them."""

import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from moco.images.batches import as_images
from moco.images.decode import Pixels
from moco.images.loader import steps

SHM = Path("/dev/shm")
LATE = 20.0
"""Milliseconds that the GPU sleeps before it computes on a batch: longer than one is made."""


@dataclass
class Drawn:
    """Batches of random bytes, another one at each step; as of `moco.images.loader.Batches`."""

    per_image: int
    count: int
    size: int

    def fill(self, step: int, rows: slice, batch: Pixels) -> None:
        """Draw some rows of a batch."""
        for row in range(rows.start, rows.stop):
            shape = self.per_image, self.size, self.size, 3
            batch[:, row] = np.random.default_rng([step, row]).integers(0, 256, shape, np.uint8)


class Refusing:
    """CUDA's runtime, but page-locking fails, and leaves its error behind as it does in earnest."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.refused = runtime, 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> Any:  # noqa: N802
        """Register what cannot be registered."""
        self.refused += 1
        return self.runtime.cudaHostRegister(0, size, flags)

    def __getattr__(self, name: str) -> Any:
        """Pass every other call on."""
        return getattr(self.runtime, name)


def checksum(batch: Tensor, weights: Tensor) -> Tensor:
    """Weigh each byte by its place, so that rows of another batch are noticed."""
    return (batch.movedim(-3, -1).reshape(-1) * weights).sum()


def received(drawn: Drawn, count: int, chip: Chip, record: Record, name: str) -> list[int]:
    """Give the checksums of the batches of a ring, computed late by the device."""
    length = drawn.per_image * drawn.count * drawn.size**2 * 3
    weights = torch.arange(length, device=chip.device) % 251 + 1
    sums = []
    with closing(steps(drawn, 0, count, 2, chip.device)) as batches:
        for batch in batches:
            chip.sleep(LATE)
            sums.append(checksum(batch, weights))
            shared = mapped_of_shm()
    began = time.perf_counter()
    chip.wait()
    record.add(f"{name}: host ahead of the GPU, ms", 1e3 * (time.perf_counter() - began))
    record.check(f"{name}: mapped of /dev/shm, MB", shared, 1)
    return [int(found) for found in torch.stack(sums).tolist()]


def expected(drawn: Drawn, count: int) -> list[int]:
    """Give the checksums that a CPU computes."""
    batch = np.empty((drawn.per_image, drawn.count, drawn.size, drawn.size, 3), np.uint8)
    weights = torch.arange(batch.size) % 251 + 1
    sums = []
    for step in range(count):
        drawn.fill(step, slice(0, drawn.count), batch)
        sums.append(int(checksum(as_images(batch), weights)))
    return sums


def mapped_of_shm() -> float:
    """MB of /dev/shm that this process maps; 0 where the system does not say."""
    maps = Path("/proc/self/maps")
    lines = [line.split() for line in maps.read_text().splitlines()] if maps.exists() else []
    ranges = [line[0].split("-") for line in lines if len(line) > 5 and line[5].startswith(str(SHM))]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges) / 1e6


def ring(record: Record, chip: Chip, scratch: Path) -> None:
    """Send batches through a ring, page-locked and not, and compare their checksums."""
    drawn, count, refused = (Drawn(2, 32, 224), 60, 12) if chip.gpu else (Drawn(2, 8, 32), 60, 12)
    if SHM.exists():
        room = os.statvfs(SHM)
        record.add("/dev/shm, MB", room.f_blocks * room.f_frsize / 1e6)
    sums = expected(drawn, count)
    found = received(drawn, count, chip, record, "page-locked")
    wrong = sum(a != b for a, b in zip(found, sums, strict=True))
    record.check("page-locked: batches that arrived changed", wrong, 0)
    runtime = Refusing(torch.cuda.cudart() if chip.gpu else None)
    with mock.patch.object(torch.cuda, "cudart", lambda: runtime):
        found = received(drawn, refused, chip, record, "not page-locked")
    wrong = sum(a != b for a, b in zip(found, sums, strict=False))
    record.check("not page-locked: batches that arrived changed", wrong, 0)
    record.require("page-locking was refused, where there is any", bool(runtime.refused) == chip.gpu)
