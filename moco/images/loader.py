"""Batches prepared ahead of their use by worker processes, in memory that is used again.

Workers write into a ring of batches in shared memory: nothing is copied or allocated for a batch,
and one semaphore tells that it is whole. The memory is anonymous, so a small /dev/shm, as
containers have it, does not matter. For a GPU the ring is page-locked, so that batches travel to
the device while it computes.
"""

import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from moco.errors import MocoError
from moco.images.batches import as_images
from moco.images.decode import Pixels

AHEAD = 4
"""Batches that workers prepare ahead of their use."""
HELD = 2
"""Batches that stay unchanged: the one handed over last, and one that may still be copied."""
LOOK_SECONDS = 1.0
"""How often a waiting process looks whether those that it waits for still live."""


class Batches(Protocol):
    """What a ring is filled with: numbered batches of one shape.

    Attributes:
        per_image: V, views of each image.
    """

    per_image: int

    @property
    def count(self) -> int:
        """N, images of a batch."""

    @property
    def size(self) -> int:
        """S, their side in pixels."""

    def fill(self, step: int, rows: slice, batch: Pixels) -> None:
        """Make some rows of a batch, uint8 V x N x S x S x 3."""


class _Ring:
    """Batches in shared memory, and the processes that fill them.

    Each worker makes the same rows of every batch. At most AHEAD batches are under way: while step
    n is collected, step n + AHEAD is written, into the slot of n - HELD.
    """

    def __init__(self, batches: Batches, first: int, last: int, num_workers: int) -> None:
        self.batches, self.first, self.last = batches, first, last
        self.parts = min(max(num_workers, 1), batches.count)
        slots = HELD + (AHEAD if num_workers else 0)
        self.shape = (slots, batches.per_image, batches.count, batches.size, batches.size, 3)
        context: Any = multiprocessing.get_context()
        forks = context.get_start_method() == "fork"
        # Without fork, memory is shared by a file, and there is no /dev/shm.
        self.memory = (
            mmap.mmap(-1, math.prod(self.shape)) if forks else context.RawArray(ctypes.c_uint8, math.prod(self.shape))
        )
        self.workers: list[Any] = []
        if num_workers:
            self._whole, self._lock = context.Semaphore(0), context.Lock()
            self._done = context.RawArray(ctypes.c_int, slots)
            self._may_write = [context.Semaphore(AHEAD) for _ in range(self.parts)]
            self._failures, self._failed = context.SimpleQueue(), context.RawValue(ctypes.c_bool, False)
            workers = [context.Process(target=self._work, args=(part,), daemon=True) for part in range(self.parts)]
            for worker in workers:
                worker.start()
            self.workers = workers

    def slot(self, step: int) -> Pixels:
        """Return the batch of a step, uint8 V x N x S x S x 3."""
        whole: Pixels = np.frombuffer(self.memory, np.uint8)
        return whole.reshape(self.shape)[step % self.shape[0]]

    def collect(self, step: int) -> Pixels:
        """Wait for the batch of a step, the next one, and let workers write the slot of an old one.

        Raises:
            MocoError: a worker's.
            RuntimeError: a worker failed or was killed.
        """
        if not self.workers:
            self.batches.fill(step, slice(0, self.batches.count), self.slot(step))
            return self.slot(step)
        while not self._whole.acquire(timeout=LOOK_SECONDS):
            gone = next((worker.exitcode for worker in self.workers if worker.exitcode), 0)
            if gone and not self._failed.value and not self._whole.acquire(block=False):
                raise RuntimeError(
                    f"a loader process ended with exit code {gone} (-9: killed, mostly for want of memory); lower"
                    " num_workers in machine.yaml, or give this host more memory"
                )
        if self._failed.value:
            meant_to_be_read, text = self._failures.get()
            raise MocoError(text) if meant_to_be_read else RuntimeError(f"a loader process failed:\n{text}")
        for semaphore in self._may_write:
            semaphore.release()
        return self.slot(step)

    def close(self) -> None:
        """End the workers, however far they are."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()

    def _work(self, part: int) -> None:
        outlive_signals()
        torch.set_num_threads(1)
        parent, count = os.getppid(), self.batches.count
        rows = slice(part * count // self.parts, (part + 1) * count // self.parts)
        try:
            for step in range(self.first, self.last):
                while not self._may_write[part].acquire(timeout=LOOK_SECONDS):
                    if os.getppid() != parent:
                        return
                self.batches.fill(step, rows, self.slot(step))
                with self._lock:
                    self._done[step % self.shape[0]] += 1
                    if self._done[step % self.shape[0]] == self.parts:
                        self._done[step % self.shape[0]] = 0
                        self._whole.release()
        except Exception as error:
            readable = isinstance(error, MocoError)
            self._failures.put((readable, str(error) if readable else traceback.format_exc()))
            self._failed.value = True
            self._whole.release()


def steps(batches: Batches, first: int, last: int, num_workers: int, device: torch.device) -> Generator[Tensor]:
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

    Raises:
        MocoError: a worker's.
        RuntimeError: a worker failed or was killed.
    """
    # Workers start first: a fork copies page-locked memory, or shares it with a GPU that only the
    # parent may use.
    with closing(_Ring(batches, first, last, num_workers)) as ring, ExitStack() as context:
        stream = None
        if device.type == "cuda":
            context.enter_context(_page_locked(ring, device))
            stream = torch.cuda.Stream(device)
        copies: deque[torch.cuda.Event] = deque()
        for step in range(first, last):
            if len(copies) == HELD:
                copies.popleft().synchronize()  # before its slot is written again
            batch = as_images(ring.collect(step))
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
def _page_locked(ring: _Ring, device: torch.device) -> Iterator[None]:
    """Page-lock a ring, so that CUDA copies from it by itself."""
    runtime = torch.cuda.cudart()
    address, size = ring.slot(0).ctypes.data, math.prod(ring.shape)
    if int(runtime.cudaHostRegister(address, size, 0)):
        # For example, a limit on locked memory; the host copies the batches, to the same result.
        # The next kernel reports the failure as its own: this one takes it.
        with suppress(RuntimeError):
            torch.zeros(1, device=device)
        print("batches cannot be page-locked, so copies to the GPU are slower; raise `ulimit -l`", flush=True)
        yield
        return
    try:
        yield
    finally:
        runtime.cudaHostUnregister(address)


def outlive_signals(worker: int = 0) -> None:
    """Ignore the signals that ask to stop, which reach the whole process group or Slurm job.

    The main process decides what is still to be saved, and ends its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
