"""Features on a plane (t-SNE)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from moco.features.neighbors import Features

FEWEST = 16
"""Images that a map needs at least."""
DIMENSIONS = 50
"""Main components that t-SNE starts from, as its authors advise."""


def tsne(features: Features, seed: int, device: torch.device) -> NDArray[np.float32]:
    """Map features onto a plane by cosine similarity (t-SNE, van der Maaten & Hinton 2008).

    The main components are found on the device, in float64: 8 N D + 16 D^2 bytes, 0.4 GB for 20,000
    images at D = 2,048. The map itself is made from these 50 numbers an image in one thread of the
    CPU, wherever the run computes: sums in another order give another map after hundreds of steps.

    Args:
        features: float32, N x D, N >= `FEWEST`, not all equal.
        seed: of the map.
        device: that finds the main components.

    Returns:
        float32, N x 2, each axis scaled to [0.02, 0.98].
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        main = main_components(torch.from_numpy(features).to(device)).cpu().numpy()
        perplexity = min(30.0, (len(main) - 1) / 3)
        points = TSNE(init="pca", max_iter=500, perplexity=perplexity, random_state=seed).fit_transform(main)
    low, high = points.min(axis=0), points.max(axis=0)
    return (0.02 + 0.96 * (points - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def main_components(features: Tensor) -> Tensor:
    """Project unit rows onto their main components: float32, N x min(50, N, D), widest first."""
    unit = normalize(features.double(), dim=1)
    unit -= unit.mean(dim=0)
    axes = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1)[:, : min(DIMENSIONS, *unit.shape)]
    axes *= axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # libraries differ
    return (unit @ axes).float()
