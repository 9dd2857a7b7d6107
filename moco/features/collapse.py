"""Have the features collapsed? Two numbers that need no labels.

A contrastive encoder can fail by mapping every image to (nearly) one point, or into a few
dimensions. Both show in the features themselves, long before a classifier is trained.

Both are computed in float64 on one device, `ROWS` rows at a time; the singular values of what the
rank leaves of them, D x D numbers at most, by the CPU.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from moco.features.placing import ON_CPU

ROWS = 16384
"""Rows at a time: 256 MiB in float64 at D = 2,048, and the rank's factorization takes three times
that, so that ImageNet's 1.28 M rows need no more than 16,384 do."""


def feature_spread(features: NDArray[np.float32], device: torch.device = ON_CPU[0]) -> float:
    """Measure how widely features point, from 0 (one point) to 1 (all over the sphere).

    The standard deviation of each dimension of the L2-normalized features, averaged over the
    dimensions and multiplied by sqrt(D), so that it does not depend on D (Chen & He 2021,
    "Exploring Simple Siamese Representation Learning", section 4.1). Features that follow a ReLU
    share a half-space and stay below 1.

    Args:
        features: float32, N x D.
        device: that computes.
    """
    sums = torch.zeros(2, features.shape[1], dtype=torch.float64, device=device)
    for block in _unit_rows(features, device):
        sums[0] += block.sum(dim=0)
        sums[1] += block.square_().sum(dim=0)
    mean, squares = sums / len(features)
    variance = (squares - mean.square()).clamp(min=0)  # below 0 by rounding alone
    return float(variance.sqrt().mean() * features.shape[1] ** 0.5)


def effective_rank(features: NDArray[np.float32], device: torch.device = ON_CPU[0]) -> float:
    """Measure how many dimensions the features use, from 1 to min(N, D).

    exp of the entropy of the singular values of the L2-normalized features, divided by their sum
    (Roy & Vetterli 2007, "The effective rank"). The mean is not subtracted: with it, tiny noise
    around one point would look like a rich representation.

    Args:
        features: float32, N x D.
        device: that computes.

    Returns:
        The rank; NaN where features are not finite.
    """
    if not np.isfinite(features).all():
        return math.nan
    seen = torch.zeros(0, features.shape[1], dtype=torch.float64, device=device)
    for block in _unit_rows(features, device):
        seen = torch.cat([seen, block])
        if len(seen) > seen.shape[1]:  # the triangle of a QR factorization has the same singular values
            seen = torch.linalg.qr(seen, mode="r").R
    values = torch.linalg.svdvals(seen.cpu())
    shares = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(shares).sum().exp())


def _unit_rows(features: NDArray[np.float32], device: torch.device) -> Iterator[Tensor]:
    """Divide each row by its length, in float64, a block at a time; a row of zeros stays zeros."""
    for start in range(0, len(features), ROWS):
        yield normalize(torch.from_numpy(features[start : start + ROWS]).to(device).double(), dim=1)
