"""Batches of views for training: read by offset, decode once, two views, hand over uint8."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.config import Views
from moco.errors import MocoError
from moco.images.decode import Pixels, UndecodableError, decode
from moco.images.index import ShardSet
from moco.images.plan import EpochPlan
from moco.images.views import draw, random_view


@dataclass
class TwoViewBatches(Dataset[Tensor]):
    """Item n is this process's part of the run's n-th global batch.

    An item is uint8, 2 x N x 3 x S x S: queries and keys, each N x 3 x S x S channels-last in memory,
    N = global_batch / world_size. It is a pure function of the plan and the step.
    """

    images: ShardSet
    plan: EpochPlan
    views: Views
    size: int
    rank: int = 0
    world_size: int = 1

    def __getitem__(self, step: int) -> Tensor:
        samples = self.plan.batch(step, self.rank, self.world_size)
        numbers = draw(self.plan.seed, self.plan.epoch_of(step), samples)
        batch = np.empty((2, len(samples), self.size, self.size, 3), dtype=np.uint8)
        for position, sample in enumerate(samples):
            image = read_image(self.images, int(sample))
            for view in range(2):
                batch[view, position] = random_view(image, self.views, self.size, numbers[position, view])
        return torch.from_numpy(batch).permute(0, 1, 4, 2, 3)


def read_image(images: ShardSet, sample: int) -> Pixels:
    """One image of a shard set, uint8 H x W x 3; a damaged one is an error, for sharding checked them all."""
    try:
        return decode(images.read(sample))
    except UndecodableError as error:
        raise MocoError(
            f"sample {images.key(sample)}: {error}, but it decoded when it was sharded; find the damage with `moco verify`"
        ) from None


def steps(
    batches: TwoViewBatches, first: int, last: int, num_workers: int, pin_memory: bool
) -> Iterator[Tensor]:
    """The batches of steps first to last - 1 in order, prepared ahead by worker processes that live all along."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=outlive_signals,
    )
    return iter(loader)


def outlive_signals(worker: int) -> None:
    """Leave the signals that ask to stop, which reach the whole process group or Slurm job, to the main process.

    It decides what is still to be saved, and the workers end with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
