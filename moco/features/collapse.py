"""Have the features collapsed? Two numbers that need no labels.

A contrastive encoder can fail by mapping every image to (nearly) one point, or into a few
dimensions. Both show in the features themselves, long before a classifier is trained.
"""

import numpy as np
from numpy.typing import NDArray

from moco.features.neighbors import unit_rows


def feature_spread(features: NDArray[np.float32]) -> float:
    """Measure how widely features point, from 0 (one point) to 1 (all over the sphere).

    The standard deviation of each dimension of the L2-normalized features, averaged over the
    dimensions and multiplied by sqrt(D), so that it does not depend on D (Chen & He 2021,
    "Exploring Simple Siamese Representation Learning", section 4.1). Features that follow a ReLU
    share a half-space and stay below 1.

    Args:
        features: float, N x D.
    """
    unit = unit_rows(features)
    return float(unit.std(axis=0, dtype=np.float64).mean() * np.sqrt(unit.shape[1]))


def effective_rank(features: NDArray[np.float32]) -> float:
    """Measure how many dimensions the features use, from 1 to min(N, D).

    exp of the entropy of the singular values of the L2-normalized features, divided by their sum
    (Roy & Vetterli 2007, "The effective rank"). The mean is not subtracted: with it, tiny noise
    around one point would look like a rich representation.

    Args:
        features: float, N x D.
    """
    values = np.linalg.svd(unit_rows(features).astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(np.float64).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
