"""Batches of views for training: read by offset, decode once, two views, hand over uint8.

Worker processes write into a ring of batches in shared memory that is made once: nothing is copied or
allocated for a batch, and what crosses between processes is a number. On a GPU the ring is page-locked, so
that batches go from there to the device while it computes.
"""

import ctypes
import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.config import Views
from moco.errors import MocoError
from moco.images import fused_views
from moco.images.decode import Pixels, UndecodableError, decode
from moco.images.index import ShardSet
from moco.images.plan import EpochPlan
from moco.images.stream import TarStreams
from moco.images.stream_plan import StreamPlan
from moco.images.views import Chosen, Uniforms, choose, draw, paint, place

Item = TypeVar("Item")

AHEAD = 4
"""Batches that workers prepare ahead of training."""
HELD = 2
"""Batches that stay as they are after they were handed over: the newest, and one that may still be on its way."""


@dataclass
class ViewBatches:
    """This process's part of the run's global batches: a pure function of the plan and the step.

    Attributes:
        images: training images.
        plan: which of them when.
        views: the distributions of the views.
        size: S, their side in pixels.
        rank: of this process.
        world_size: number of processes.
        streams: reads the encoded images where the plan is of streams; None: by the index.
        compiled: whether the compiled part paints the views.
        per_image: V, views of each image; one is the first of two.
    """

    images: ShardSet
    plan: EpochPlan | StreamPlan
    views: Views
    size: int
    rank: int = 0
    world_size: int = 1
    streams: TarStreams | None = None
    compiled: bool = False
    per_image: int = 2

    @property
    def count(self) -> int:
        """N, this process's images of a step."""
        return self.plan.global_batch // self.world_size

    def fill(self, step: int, rows: slice, batch: Pixels) -> None:
        """Make some rows of a batch.

        Args:
            step: counted from 0 over the whole run.
            rows: which of the N images.
            batch: uint8, V x N x S x S x 3, queries and keys; is written over in these rows.
        """
        samples = self.plan.batch(step, self.rank, self.world_size)[rows]
        if self.streams:
            first = self.rank * self.count
            encoded: Iterable[bytes] = self.streams.read(step, first + rows.start, first + rows.stop)
        else:
            encoded = (self.images.read(int(sample)) for sample in samples)
        numbers = draw(self.plan.seed, self.plan.epoch_of(step), samples, self.per_image)
        chosen = choose(numbers, self.views)
        for i, data in enumerate(encoded):
            key, out = self.images.key(int(samples[i])), batch[:, rows.start + i]
            views_of(data, key, chosen[i], numbers[i], self.views.crop_scale_min, out, self.compiled)

    def __getitem__(self, step: int) -> Tensor:
        """The batch of a step: uint8, V x N x 3 x S x S, channels-last in memory."""
        batch = np.empty((self.per_image, self.count, self.size, self.size, 3), dtype=np.uint8)
        self.fill(step, slice(0, self.count), batch)
        return as_images(batch)


def read_image(images: ShardSet, sample: int) -> Pixels:
    """One image of a shard set, uint8 H x W x 3."""
    return read(images.read(sample), images.key(sample))


def read(data: bytes, key: str) -> Pixels:
    """Decode an image of a shard set; a damaged one is an error, for sharding checked them all."""
    try:
        return decode(data)
    except UndecodableError as error:
        raise MocoError(
            f"sample {key}: {error}, but it decoded when it was sharded; find the damage with `moco verify`"
        ) from None


def views_of(
    data: bytes, key: str, chosen: Chosen, numbers: Uniforms, scale_min: float, out: Pixels, compiled: bool
) -> None:
    """Make the views of an encoded image.

    Args:
        data: JPEG, PNG or WebP.
        key: its name, for errors.
        chosen: `VIEW` [V]; the crops are set here.
        numbers: float64 [V, 32], which they are drawn from.
        scale_min: smallest share of the area that a crop keeps.
        out: uint8, V x S x S x 3, each view contiguous; is written over.
        compiled: whether the compiled part paints.

    Raises:
        MocoError: the image is damaged.
    """
    size = fused_views.jpeg_size(data) if compiled else None
    if size is not None:
        place(chosen, numbers, size, scale_min)
        if fused_views.views_of_jpeg(data, chosen, out):
            return
    image = read(data, key)
    place(chosen, numbers, image.shape[:2], scale_min)
    (fused_views.views_of_pixels if compiled else paint)(image, chosen, out)


def as_images(batch: Pixels) -> Tensor:
    """A batch as torch has it: uint8 … x S x S x 3 to … x 3 x S x S, the same memory."""
    return torch.from_numpy(batch).movedim(-1, -3)


class _Ring(Dataset[None]):
    """Batches in shared memory, written in parts: item (step, part) is written into slot step % slots."""

    def __init__(self, batches: ViewBatches, parts: int, slots: int) -> None:
        self.batches, self.parts = batches, parts
        self.shape = (slots, batches.per_image, batches.count, batches.size, batches.size, 3)
        # Of the standard library, because it goes elsewhere where /dev/shm is small, as it is in containers.
        self.memory = multiprocessing.RawArray(ctypes.c_uint8, math.prod(self.shape))

    def __getitem__(self, item: tuple[int, int]) -> None:
        step, part = item
        count = self.batches.count
        rows = slice(part * count // self.parts, (part + 1) * count // self.parts)
        self.batches.fill(step, rows, self.slot(step))

    def slot(self, step: int) -> Pixels:
        """The batch of a step, uint8 V x N x S x S x 3."""
        whole: Pixels = np.frombuffer(self.memory, np.uint8)  # type: ignore[call-overload]
        return whole.reshape(self.shape)[step % self.shape[0]]


def steps(batches: ViewBatches, first: int, last: int, num_workers: int, device: torch.device) -> Generator[Tensor]:
    """The batches of steps first to last - 1 in order, prepared ahead by worker processes that live all along.

    Args:
        batches: what to make.
        first: step to begin with; beginning in the midst costs nothing.
        last: step to end before.
        num_workers: processes that make views; each makes its rows of every batch. 0: made when asked for.
        device: where the batches go.

    Yields:
        uint8 V x N x 3 x S x S on `device`; on a CPU the memory is written again after `HELD` batches.
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
    # Item after item goes to the workers in turn, so a worker makes the same rows of every batch. AHEAD items of each
    # are under way at most: what is written while step n is collected is step n + AHEAD, in the slot of n - HELD.
    items = from_workers(loader)
    on_its_way: deque[torch.cuda.Event] = deque()
    with closing(items), _page_locked(ring.memory, device):
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for step in range(first, last):
            if len(on_its_way) == HELD:
                on_its_way.popleft().synchronize()  # before its slot is written again
            for _ in range(parts):
                next(items)
            batch = as_images(ring.slot(step))
            if stream:
                batch, arrived = _send(batch, stream)
                on_its_way.append(arrived)
            yield batch


def _send(batch: Tensor, stream: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
    """Copy a batch to the device beside what it computes; what it computes next waits for it, the host does not."""
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
    """Tell CUDA that it may copy from some memory by itself; called after the workers have been started."""
    if device.type != "cuda":
        yield
        return
    runtime, address = torch.cuda.cudart(), ctypes.addressof(memory)
    if int(runtime.cudaHostRegister(address, len(memory), 0)):
        # such as a limit on locked memory: batches are then copied by the host, to the same result
        print(
            "pretrain: batches cannot be page-locked, so that copies to the GPU are slower; raise `ulimit -l`",
            flush=True,
        )
        yield
        return
    try:
        yield
    finally:
        runtime.cudaHostUnregister(address)


def from_workers(loader: DataLoader[Item]) -> Generator[Item]:
    """The items of a loader, whose workers end with the iteration, however that ends.

    They would otherwise live as long as some traceback holds on to the iterator, and heed no signal.
    """
    items = iter(loader)
    try:
        yield from items
    finally:
        if loader.num_workers:
            items._shutdown_workers()  # type: ignore[attr-defined]  # no public name for it


def outlive_signals(worker: int) -> None:
    """Leave the signals that ask to stop, which reach the whole process group or Slurm job, to the main process.

    It decides what is still to be saved, and the workers end with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
