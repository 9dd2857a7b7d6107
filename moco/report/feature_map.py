"""Features on a plane (t-SNE)."""

import numpy as np
from numpy.typing import NDArray

from moco.features.neighbors import Features, unit_rows

FEWEST = 16
"""Images that a map needs at least."""


def tsne(features: Features, seed: int) -> NDArray[np.float32]:
    """Map features onto a plane by cosine similarity (t-SNE, van der Maaten & Hinton 2008).

    Runs in one thread: sums in another order give another map after hundreds of steps.

    Args:
        features: float32, N x D, N >= `FEWEST`, not all equal.
        seed: of the map.

    Returns:
        float32, N x 2, each axis scaled to [0.02, 0.98].
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        unit = unit_rows(features)
        main = PCA(min(50, *unit.shape), svd_solver="full").fit_transform(unit)
        perplexity = min(30.0, (len(main) - 1) / 3)
        points = TSNE(init="pca", max_iter=500, perplexity=perplexity, random_state=seed).fit_transform(main)
    low, high = points.min(axis=0), points.max(axis=0)
    return (0.02 + 0.96 * (points - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
