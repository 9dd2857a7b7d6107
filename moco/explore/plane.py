"""Images on a plane: t-SNE of a few thousand, a faster map of more."""

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from moco.compiled import cached
from moco.explore.near import Near
from moco.features.neighbors import Features
from moco.report.feature_map import main_components, tsne

BY_TSNE = 2000
"""Images up to which t-SNE makes the map."""
ROUNDS, REPELLED, LONGEST_STEP = 120, 5, 4.0


def on_plane(features: Features, near: Near, seed: int, device: torch.device) -> NDArray[np.float32]:
    """Place images with similar features near each other.

    Up to `BY_TSNE` images t-SNE makes the map. Of more, main components give the first places, and
    then, by turns, each image is drawn to its nearest neighbors and pushed from images drawn at
    random, as in UMAP (McInnes et al. 2018, section 3.2; here a = b = 1 and edges of equal weight):
    seconds for 50,000 images, in one thread, so that the same features give the same map.

    Args:
        features: float32, N x D, not all equal.
        near: their neighbors.
        seed: of the map.
        device: that finds the main components.

    Returns:
        float32, N x 2, in [0, 1].
    """
    if len(features) <= BY_TSNE:
        return tsne(features, seed, device)
    points = main_components(torch.from_numpy(features).to(device))[:, :2].cpu().numpy().astype(np.float64)
    points *= 10 / max(points.std(), 1e-12)
    _attract_and_repel(points, near.rows, ROUNDS, np.uint64(seed + 1))
    low, high = np.quantile(points, [0.0005, 0.9995], axis=0)  # a few far points leave the others their room
    return (0.02 + 0.96 * np.clip((points - low) / np.maximum(high - low, 1e-12), 0, 1)).astype(np.float32)


@cached(numba.njit)
def _attract_and_repel(points, neighbors, rounds, state):  # type: ignore[no-untyped-def]
    """Move points, float64 N x 2, in place; the state of the random numbers is not 0."""
    count, k = neighbors.shape
    for turn in range(rounds):
        rate = 1.0 - turn / rounds
        for i in range(count):
            for edge in range(k):
                j = neighbors[i, edge]
                x, y = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1]
                pull = -2.0 / (1.0 + x * x + y * y)
                x = rate * min(max(pull * x, -LONGEST_STEP), LONGEST_STEP)
                y = rate * min(max(pull * y, -LONGEST_STEP), LONGEST_STEP)
                points[i, 0] += x
                points[i, 1] += y
                points[j, 0] -= x
                points[j, 1] -= y
                for _ in range(REPELLED):
                    state ^= state << np.uint64(13)  # xorshift, Marsaglia 2003
                    state ^= state >> np.uint64(7)
                    state ^= state << np.uint64(17)
                    other = np.int64(state % np.uint64(count))
                    x, y = points[i, 0] - points[other, 0], points[i, 1] - points[other, 1]
                    square = x * x + y * y
                    push = 2.0 / ((0.001 + square) * (1.0 + square))
                    points[i, 0] += rate * min(max(push * x, -LONGEST_STEP), LONGEST_STEP)
                    points[i, 1] += rate * min(max(push * y, -LONGEST_STEP), LONGEST_STEP)
