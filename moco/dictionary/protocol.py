"""The protocol of a mechanism: the source of the keys that queries are compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor, nn

from moco.dictionary.shuffle_bn import Shuffle, Traveling
from moco.permutation import Integers
from moco.processes import Processes

Encode = Callable[[Tensor], Tensor]
"""Images, N x 3 x S x S normalized, to vectors N x C of length 1, with gradient."""


@dataclass(frozen=True)
class Batch:
    """What one process works on in a step.

    Attributes:
        views: V tensors N x 3 x S x S, uint8 as the loader yields them or already normalized;
            process r holds the r-th slice of the global batch of B = N x world_size images.
        numbers: gives `samples`; called where they are needed, for a memory bank alone.
        shuffle: how key images are shuffled over the processes and their batch-norm groups.
        step: counted from 0 over the whole run.
        processes: this process and its peers.
        micro_batch_size: images that are encoded together, whole batch-norm groups; None: all N.
    """

    views: Tensor | Sequence[Tensor]
    numbers: Callable[[], Integers]
    shuffle: Shuffle
    step: int
    processes: Processes
    micro_batch_size: int | None = None

    @classmethod
    def of(
        cls,
        views: Tensor | Sequence[Tensor],
        samples: Integers,
        positions: Integers,
        step: int,
        processes: Processes,
        micro_batch_size: int | None = None,
    ) -> "Batch":
        """Make a batch from indices that are known already.

        Args:
            views: as of the attribute.
            samples: int64 [B], which training image each position is.
            positions: int64 [B], which position each slot of the shuffled key batch encodes.
            step: as of the attribute.
            processes: as of the attribute.
            micro_batch_size: as of the attribute.
        """
        return cls(views, lambda: samples, Shuffle.of(positions, processes), step, processes, micro_batch_size)

    @cached_property
    def samples(self) -> Integers:
        """int64 [B], which training image each position of the global batch is."""
        return self.numbers()

    @property
    def count(self) -> int:
        """N, images of this process."""
        return len(self.views[0])

    @property
    def first(self) -> int:
        """Position of this process's first image in the global batch."""
        return self.processes.rank * self.count


@dataclass(frozen=True)
class Keys:
    """The keys of a step.

    Attributes:
        positives: for each way (`MoCo.ways`) B x C, the keys of the step's own images, the same on
            every process.
        negatives: K x C, keys of other images; None: the batch's other keys.
    """

    positives: Sequence[Tensor]
    negatives: Tensor | None


class Dictionary(Protocol):
    """A mechanism of the paper's figure 2: a module, whose state is saved with the run."""

    def update_encoder(self, encoder_q: nn.Module) -> None:
        """Move what follows the query encoder; called first in every step."""

    def send(self, batch: Batch, view: int) -> Traveling | None:
        """Send a view of the step's images to where they are encoded; None: nothing is encoded."""

    def look_up(self, batch: Batch, traveling: Traveling | None, encode: Encode) -> Tensor:
        """Give the keys of the step's own images, B x C by position, the same on every process.

        Args:
            batch: of the step.
            traveling: what `send` gave.
            encode: the query encoder, its gradient averaged over processes.
        """

    def negatives(self, batch: Batch) -> Tensor | None:
        """Give K x C keys of other images.

        None: the negatives of an image are the batch's other keys.
        """

    def enqueue(self, batch: Batch, keys: Sequence[Tensor], queries: Tensor) -> None:
        """Take in what the step has made; called after backward.

        Args:
            batch: of the step.
            keys: what `look_up` gave, for each way.
            queries: N x C without gradient, of the first way.
        """
