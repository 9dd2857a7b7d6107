"""What the features of images say about each other: neighbors, clusters, which to label first."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from moco.devices import full_precision
from moco.features.neighbors import Features
from moco.permutation import Integers

ROWS = 512
"""Images that are compared with all others at a time: 100 MB of similarities for 50,000."""


class Near(NamedTuple):
    """The nearest other images of each, the best first.

    Attributes:
        rows: int64, N x k.
        similarities: cosines, float32, N x k.
    """

    rows: Integers
    similarities: Features


def unit_rows(features: Features, device: torch.device) -> Tensor:
    """Divide each row by its length: float32, N x D, on a device that holds them all."""
    return normalize(torch.from_numpy(features).to(device), dim=1)


def nearest_others(unit: Tensor, k: int) -> Near:
    """Find the k most similar other rows of each row, by comparing all pairs.

    Args:
        unit: float32, N x D, of length 1; its device computes.
        k: how many; fewer than N.
    """
    rows, similarities = [], []
    for start in range(0, len(unit), ROWS):
        with full_precision():
            found = unit[start : start + ROWS] @ unit.T
        found[torch.arange(len(found)), torch.arange(start, start + len(found))] = -torch.inf
        best = found.topk(k, dim=1)
        rows.append(best.indices.cpu())
        similarities.append(best.values.cpu())
    return Near(torch.cat(rows).numpy(), torch.cat(similarities).numpy())


def most_useful(unit: Tensor, labelled: Integers, count: int) -> tuple[Integers, Features]:
    """Rank images by what a label of each adds: greedy k-center (Sener & Savarese 2018, 4.2).

    Each is the image whose most similar image with a label, or ranked before it, is least similar.
    Where no image has a label, or all have one, the ranking begins with the image that is most like
    the mean of all.

    Args:
        unit: float32, N x D, of length 1; its device computes.
        labelled: int64, rows with a label.
        count: at most as many; fewer where all others have a twin among those.

    Returns:
        Rows, int64, and after each how similar the least covered image still is, float32.
    """
    known = torch.from_numpy(labelled).to(unit.device)
    ranked, reached = list[int](), list[float]()
    with full_precision():
        if 0 < len(known) < len(unit):
            covered = torch.cat([_most_similar(block, unit, known) for block in unit.split(ROWS)])
        else:
            first = int((unit @ unit.mean(dim=0)).argmax())
            covered = unit @ unit[first]
            ranked, reached = [first], [float(covered.min())]
        while len(ranked) < count and float(least := covered.min()) < 1 - 1e-5:
            ranked.append(int((covered == least).nonzero()[0]))  # of equals the first
            covered = torch.maximum(covered, unit @ unit[ranked[-1]])
            covered[ranked[-1]] = 1
            reached.append(float(covered.min()))
    return np.array(ranked, dtype=np.int64), np.array(reached, dtype=np.float32)


def _most_similar(block: Tensor, unit: Tensor, known: Tensor) -> Tensor:
    """Give the largest cosine of each row of a block and the rows that `known` names."""
    found = block.new_full((len(block),), -1.0)
    for part in known.split(16384):
        found = torch.maximum(found, (block @ unit[part].T).amax(dim=1))
    return found


def clusters(unit: Tensor, count: int, seed: int) -> NDArray[np.int32]:
    """Part images by k-means on their unit features, in one thread: the same parts each time.

    Returns:
        int32 [N]; cluster 0 is the largest.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        means = KMeans(count, n_init=1, max_iter=30, random_state=seed)
        found = means.fit_predict(unit.cpu().numpy())
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(order)[found].astype(np.int32)
