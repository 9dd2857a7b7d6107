"""MoCo's dictionary: a queue of keys and the momentum encoder that makes them (paper, section 3.2)."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MomentumQueue(nn.Module):
    """A first-in first-out dictionary of K keys, larger than any batch, kept consistent by a slow encoder.

    Args:
        encoder_q: the query encoder, images to unit vectors; the key encoder starts as its copy.
        dim: C, length of a key.
        size: K, number of keys; any number, for any batch size.
        momentum: m of the key encoder's update, in [0, 1).
        generator: draws the keys that fill the queue until real ones have replaced them.

    Attributes:
        encoder_k: the key encoder; it takes no gradient.
        keys: K x C, L2-normalised, one key a row.
        pointer: int64 scalar, the row that the next key overwrites (the oldest).
    """

    keys: Tensor
    pointer: Tensor

    def __init__(
        self,
        encoder_q: nn.Module,
        dim: int,
        size: int,
        momentum: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.encoder_k = copy.deepcopy(encoder_q).requires_grad_(False)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update_encoder(self, encoder_q: nn.Module) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q (paper, equation 2), for parameters; batch-norm statistics are its own."""
        torch._foreach_lerp_(
            list(self.encoder_k.parameters()), list(encoder_q.parameters()), 1 - self.momentum
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Keys of some images: N x 3 x H x W, normalised, to N x C of length 1, without gradient."""
        return self.encoder_k(images)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by these N x C; of more than K, the last K remain. Call it after backward."""
        K, N = len(self.keys), len(keys)
        rows = (self.pointer + torch.arange(N, device=keys.device)) % K
        kept = slice(max(0, N - K), None)  # a row written twice would be undefined
        self.keys[rows[kept]] = keys[kept].to(self.keys.dtype)
        self.pointer.add_(N).remainder_(K)
