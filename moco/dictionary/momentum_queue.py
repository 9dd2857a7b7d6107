"""MoCo's dictionary: a queue of keys and the momentum encoder that makes them (section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.dictionary.protocol import Batch


class MomentumQueue(MomentumEncoder):
    """A first-in first-out dictionary of K keys, larger than any batch, made by a slow encoder.

    Args:
        encoder_q: the query encoder, images to unit vectors; the key encoder starts as its copy.
        dim: C, length of a key.
        size: K, number of keys; any number, for any batch size.
        momentum: m of the key encoder's update, in [0, 1].
        generator: draws the keys that fill the queue until real ones have replaced them.
        random_start: whether those are negatives too (as in the paper); else only real keys are,
            and the first step has none.

    Attributes:
        keys: K x C, L2-normalized, one key a row.
        pointer: int64 scalar, the row that the next key overwrites (the oldest).
        filled: int64 scalar, real keys so far, at most K; without a random start alone.
    """

    keys: Tensor
    pointer: Tensor
    filled: Tensor | None

    def __init__(
        self,
        encoder_q: nn.Module,
        dim: int,
        size: int,
        momentum: float,
        generator: torch.Generator | None = None,
        *,
        random_start: bool = True,
    ) -> None:
        super().__init__(encoder_q, momentum)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", None if random_start else torch.zeros((), dtype=torch.long))
        self._full = random_start

    def negatives(self, batch: Batch) -> Tensor:
        """Give the keys of the images of the steps before."""
        return self.usable()

    def usable(self) -> Tensor:
        """Give the whole queue; without a random start, what of it is real so far."""
        if self._full or self.filled is None:
            return self.keys
        filled = int(self.filled)  # waits for a GPU, in the first steps
        self._full = filled == len(self.keys)
        return self.keys[:filled]

    @torch.no_grad()
    def restart(self, keys: Tensor, pointer: int, filled: int) -> None:
        """Take over a queue.

        Args:
            keys: K x C.
            pointer: the row that the next key overwrites.
            filled: real keys, the first ones.
        """
        self.keys.copy_(keys)
        self.pointer.fill_(pointer)
        if self.filled is not None:
            self.filled.fill_(filled)
            self._full = False

    @torch.no_grad()
    def enqueue(self, batch: Batch, keys: Sequence[Tensor], queries: Tensor) -> None:
        """Put the step's keys where the oldest ones are."""
        for new in keys:
            self.push(new)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by these N x C; of more than K, the last K remain."""
        K, N = len(self.keys), len(keys)
        rows = (self.pointer + torch.arange(N, device=keys.device)) % K
        kept = slice(max(0, N - K), None)  # a row written twice would be undefined
        self.keys[rows[kept]] = keys[kept].to(self.keys.dtype)
        self.pointer.add_(N).remainder_(K)
        if self.filled is not None:
            self.filled.add_(N).clamp_(max=K)
