"""Which images make up which step: a function of seed, epoch, number of images and global batch.

Each epoch visits the images in the order of a fresh pseudo-random permutation (`moco.permutation`);
each step computes only its own part.
"""

from dataclasses import dataclass

import numpy as np

from moco.permutation import Integers, key_of, permute


@dataclass(frozen=True)
class EpochPlan:
    """The sequence of global batches of a run.

    Each image comes at most once an epoch. The tail that fills no global batch is left out; it
    differs from epoch to epoch.

    Attributes:
        images: number of images.
        global_batch: images a step over all processes.
        seed: of the run.
    """

    images: int
    global_batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return self.images // self.global_batch

    def epoch_of(self, step: int) -> int:
        """Return the epoch of a step; both count from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Integers:
        """Return the indices of a step's images, int64 [global_batch / world_size].

        Any number of processes cuts the same global batch into consecutive slices, so the images
        of a step, and which of them share a batch-norm group, do not depend on it.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        local = self.global_batch // world_size
        first = position * self.global_batch + rank * local
        return permute(np.arange(first, first + local), self.images, key_of(self.seed, epoch))
