"""The memory bank: a key for each image, from when it was last seen (figure 2b; Wu et al. 2018)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco.dictionary.protocol import Batch, Encode
from moco.dictionary.shuffle_bn import Traveling, indices_on
from moco.permutation import Integers, key_of, permute

_PURPOSE = 0xBA  # keeps this draw apart from the epoch plan's under the same seed


class MemoryBank(nn.Module):
    """Keys of all images; each step samples K of them.

    No key encoder, no shuffling, no second view.

    Args:
        dim: C, length of a key.
        images: n, number of training images.
        size: K, negatives of a step; at most n less a global batch.
        momentum: of an image's key, in [0, 1]: its share in the mean with the new query.
        seed: draws the negatives.
        generator: draws the first keys.

    Attributes:
        bank: n x C, L2-normalized, row i the key of training image i.
    """

    bank: Tensor

    def __init__(
        self, dim: int, images: int, size: int, momentum: float, seed: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.size, self.momentum, self.seed = size, momentum, seed
        self.register_buffer("bank", F.normalize(torch.randn(images, dim, generator=generator), dim=1))

    def update_encoder(self, encoder_q: nn.Module) -> None:
        """There is no key encoder."""

    def send(self, batch: Batch, view: int) -> None:
        """Nothing is encoded but queries."""

    def look_up(self, batch: Batch, traveling: Traveling | None, encode: Encode) -> Tensor:
        """Give the images' own rows, from the last epoch."""
        return self.bank.index_select(0, indices_on(self.bank.device, batch.samples))

    def negatives(self, batch: Batch) -> Tensor:
        """K rows of images that are not in this step."""
        return self.bank.index_select(0, indices_on(self.bank.device, self.drawn(batch.samples, batch.step)))

    def drawn(self, samples: Integers, step: int) -> Integers:
        """Which rows are a step's negatives: int64 [K], distinct, none of `samples`.

        A function of seed and step.

        Raises:
            ValueError: the bank has no K rows beside those of `samples`.
        """
        n, wanted = len(self.bank), self.size + len(samples)
        if wanted > n:
            raise ValueError(
                f"{self.size} negatives cannot be drawn from a bank of {n} images, less the {len(samples)} of a step"
            )
        rows = permute(np.arange(wanted), n, key_of(self.seed, _PURPOSE, step))
        return rows[np.isin(rows, samples, invert=True)][: self.size]

    @torch.no_grad()
    def enqueue(self, batch: Batch, keys: Sequence[Tensor], queries: Tensor) -> None:
        """Move the rows of all peers' images towards their queries, back to length 1."""
        rows = indices_on(self.bank.device, batch.samples)
        everyones = batch.processes.gather(queries, batch.processes.in_step)  # B x C
        moved = self.momentum * self.bank[rows] + (1 - self.momentum) * everyones.to(self.bank.dtype)
        self.bank[rows] = F.normalize(moved, dim=1)
