"""Batches prepared ahead of training by worker processes, in memory that is used again.

Workers write into a ring of batches in shared memory: nothing is copied or allocated for a batch,
and only a number crosses between processes. For a GPU the ring is page-locked, so that batches
travel to the device while it computes.
"""

import ctypes
import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.images.batches import ViewBatches, as_images
from moco.images.decode import Pixels

Item = TypeVar("Item")

AHEAD = 4
"""Batches that workers prepare ahead of training."""
HELD = 2
"""Batches that stay unchanged: the one handed over last, and one that may still be copied."""


class _Ring(Dataset[None]):
    """Batches in shared memory; item (step, part) writes that part into slot step % slots."""

    def __init__(self, batches: ViewBatches, parts: int, slots: int) -> None:
        self.batches, self.parts = batches, parts
        self.shape = (slots, batches.per_image, batches.count, batches.size, batches.size, 3)
        # Of the standard library, which avoids a small /dev/shm, as in containers.
        self.memory = multiprocessing.RawArray(ctypes.c_uint8, math.prod(self.shape))

    def __getitem__(self, item: tuple[int, int]) -> None:
        step, part = item
        count = self.batches.count
        rows = slice(part * count // self.parts, (part + 1) * count // self.parts)
        self.batches.fill(step, rows, self.slot(step))

    def slot(self, step: int) -> Pixels:
        """Return the batch of a step, uint8 V x N x S x S x 3."""
        whole: Pixels = np.frombuffer(self.memory, np.uint8)  # type: ignore[call-overload]
        return whole.reshape(self.shape)[step % self.shape[0]]


def steps(batches: ViewBatches, first: int, last: int, num_workers: int, device: torch.device) -> Generator[Tensor]:
    """Yield the batches of steps first to last - 1, prepared ahead by worker processes.

    Args:
        batches: what to make.
        first: step to begin with; any step costs the same.
        last: step to end before.
        num_workers: processes that make views; each makes its rows of every batch. 0: this process
            makes each batch when it is asked for.
        device: where the batches go.

    Yields:
        uint8 V x N x 3 x S x S on `device`; on a CPU the memory is reused after `HELD` batches.
    """
    parts = min(max(num_workers, 1), batches.count)
    ring = _Ring(batches, parts, HELD + (AHEAD if num_workers else 0))
    loader = DataLoader(
        ring,
        batch_size=None,
        sampler=((step, part) for step in range(first, last) for part in range(parts)),
        num_workers=parts if num_workers else 0,
        prefetch_factor=AHEAD if num_workers else None,
        collate_fn=lambda nothing: nothing,
        worker_init_fn=outlive_signals,
    )
    # Items go to the workers in turn, so each makes the same rows of every batch. At most AHEAD
    # items of each are under way: while step n is collected, step n + AHEAD is written, into the
    # slot of n - HELD.
    items = from_workers(loader)
    copies: deque[torch.cuda.Event] = deque()
    with closing(items), _page_locked(ring.memory, device):
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for step in range(first, last):
            if len(copies) == HELD:
                copies.popleft().synchronize()  # before its slot is written again
            for _ in range(parts):
                next(items)
            batch = as_images(ring.slot(step))
            if stream:
                batch, arrived = _send(batch, stream)
                copies.append(arrived)
            yield batch


def _send(batch: Tensor, stream: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
    """Copy a batch to the device; what it computes next waits for the copy, the host does not."""
    computing = torch.cuda.current_stream(stream.device)
    with torch.cuda.stream(stream):
        moved = batch.to(stream.device, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(stream)
    computing.wait_event(arrived)
    moved.record_stream(computing)
    return moved, arrived


@contextmanager
def _page_locked(memory: ctypes.Array[ctypes.c_uint8], device: torch.device) -> Iterator[None]:
    """Page-lock memory, so that CUDA copies from it by itself; workers must run already."""
    if device.type != "cuda":
        yield
        return
    runtime, address = torch.cuda.cudart(), ctypes.addressof(memory)
    if int(runtime.cudaHostRegister(address, len(memory), 0)):
        # for example, a limit on locked memory; the host copies the batches, to the same result
        print("pretrain: batches cannot be page-locked, so copies to the GPU are slower; raise `ulimit -l`", flush=True)
        yield
        return
    try:
        yield
    finally:
        runtime.cudaHostUnregister(address)


def from_workers(loader: DataLoader[Item]) -> Generator[Item]:
    """Yield the items of a loader, and end its workers with the iteration, however that ends.

    Otherwise they live as long as a traceback holds the iterator, and ignore signals.
    """
    items = iter(loader)
    try:
        yield from items
    finally:
        if loader.num_workers:
            items._shutdown_workers()  # type: ignore[attr-defined]  # no public name for it


def outlive_signals(worker: int) -> None:
    """Ignore the signals that ask to stop, which reach the whole process group or Slurm job.

    The main process decides what is still to be saved, and ends its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
