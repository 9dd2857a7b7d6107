"""The contrastive loss (paper, equation 1)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits held at a time: on a CPU they stay in its cache, on a GPU few kernels do the work."""


@dataclass
class Contrast:
    """What one step's comparison of queries and keys gives.

    Attributes:
        loss: scalar, mean over the batch, float32.
        rank_of_positive: int64 [N], how many negatives are more similar to the query than its own
            key (0: the pretext task is solved for this query).
    """

    loss: Tensor
    rank_of_positive: Tensor


def info_nce(queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Contrast:
    """Compute InfoNCE, the log loss of a (1+K)-way softmax that picks out the positive key.

    Args:
        queries: N x C, L2-normalized; the gradient flows to them alone.
        positives: N x C, L2-normalized, row n the key of query n.
        negatives: K x C, L2-normalized, keys of other images.
        temperature: tau, above 0.

    Chance is ln(1+K). The arithmetic is done in float32 (float64 for float64 input), whatever the
    encoders ran in, within `torch.autocast` too.
    """
    if queries.dtype != torch.float64:
        queries, positives, negatives = queries.float(), positives.float(), negatives.float()
    with _no_autocast(queries):
        return Contrast(*_LogLoss.apply(queries, positives, negatives, temperature))


def info_nce_in_batch(queries: Tensor, keys: Tensor, own: Tensor, temperature: float) -> Contrast:
    """InfoNCE where the batch is the dictionary: the negatives of a query are all keys but its own.

    Args:
        queries: N x C, L2-normalized.
        keys: B x C, L2-normalized; the gradient flows to them too, if they take one.
        own: int64 [N], the row of each query's own key.
        temperature: tau, above 0.

    Chance is ln(B). The arithmetic is that of `info_nce`.
    """
    if queries.dtype != torch.float64:
        queries, keys = queries.float(), keys.float()
    with _no_autocast(queries):
        logits = queries @ keys.T / temperature  # N x B
        rank = (logits > logits.gather(1, own[:, None])).sum(dim=1)
        return Contrast(F.cross_entropy(logits, own), rank)


def _no_autocast(queries: Tensor) -> torch.autocast:
    # It would cast the arguments of each product back, float32 or not.
    return torch.autocast(queries.device.type, enabled=False)


class _LogLoss(torch.autograd.Function):
    """Compute loss, ranks and gradient in one pass over the keys, a block at a time.

    The N x (1+K) logits are never stored. With p the softmax of a query's logits and k+ its
    positive, the gradient is (sum over keys of p k - k+) / (tau N): the sum is accumulated, in
    units of the largest logit so far, along with the normalizer of p.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        N = len(queries)
        scaled = queries / temperature  # N x C
        positive = (scaled * positives).sum(dim=1)  # N
        largest, total, mixture = positive, torch.ones_like(positive), positives
        rank = torch.zeros(N, dtype=torch.long, device=queries.device)
        block = max(1, _LOGITS.get(queries.device.type, 1 << 18) // N)
        for keys in negatives.split(block) if len(negatives) else ():
            logits = scaled @ keys.T  # N x block
            rank += (logits > positive[:, None]).sum(dim=1)
            before, largest = largest, torch.maximum(largest, logits.amax(dim=1))
            shrink = (before - largest).exp_()
            weights = logits.sub_(largest[:, None]).exp_()
            total = total * shrink + weights.sum(dim=1)
            mixture = torch.addmm(mixture * shrink[:, None], weights, keys)  # N x C
        ctx.save_for_backward((mixture / total[:, None] - positives) / (temperature * N))
        ctx.mark_non_differentiable(rank)
        return (largest + total.log() - positive).mean(), rank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, of_rank: None) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * of_loss, None, None, None
