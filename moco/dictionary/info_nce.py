"""The contrastive loss (paper, equation 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Contrast:
    """What one step's comparison of queries and keys gives.

    Attributes:
        loss: scalar, mean over the batch, float32.
        rank_of_positive: int64 [N], how many negatives are more similar to the query than its own key
            (0: the pretext task is solved for this query).
    """

    loss: Tensor
    rank_of_positive: Tensor


def info_nce(queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Contrast:
    """InfoNCE: the log loss of a (1+K)-way softmax classifier that tries to pick out the positive key.

    Args:
        queries: N x C, L2-normalised.
        positives: N x C, L2-normalised, row n the key of query n.
        negatives: K x C, L2-normalised, keys of other images.
        temperature: tau, above 0.

    Chance is ln(1+K). The arithmetic is done in float32 (float64 for float64 input), whatever the encoders ran in.
    """
    if queries.dtype != torch.float64:
        queries, positives, negatives = queries.float(), positives.float(), negatives.float()
    positive = (queries * positives).sum(dim=1, keepdim=True)  # N x 1
    negative = queries @ negatives.T  # N x K
    logits = torch.cat([positive, negative], dim=1) / temperature  # N x (1+K)
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return Contrast(F.cross_entropy(logits, target), (negative > positive).sum(dim=1))
