"""Weighted k-nearest-neighbor classification (Wu et al. 2018), the probe that trains nothing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from moco.devices import full_precision
from moco.features.extract import Features
from moco.features.placing import ON_CPU, Devices, placed

QUERIES, KEYS = 1024, 16384
"""Compared at a time on each device: 64 MiB of similarities, and 128 MiB of keys at D = 2,048, once
as they are and once normalized, whatever the size of the bank."""


def knn_predict(
    queries: Features,
    bank: Features,
    labels: NDArray[np.int32],
    classes: int,
    k: int,
    temperature: float,
    devices: Devices = ON_CPU,
) -> NDArray[np.int64]:
    """Predict a class for each query by the votes of its nearest neighbors.

    A neighbor at cosine similarity s votes for its class with exp(s / temperature). Both sides may
    be memory-mapped; they are read block by block. A GPU whose free memory holds the bank (10.5 GB
    for ImageNet) copies it once; else it takes `KEYS` rows at a time for each block of `QUERIES`.

    Args:
        queries: float32, N x D.
        bank: float32, M x D, features with known labels.
        labels: int32 [M], in [0, classes).
        classes: number of classes.
        k: neighbors; no more than M are used.
        temperature: above 0.
        devices: share the queries.

    Returns:
        int64 [N], the class with the most weight.
    """
    banks = [placed(bank, device) for device in devices]
    truth = torch.from_numpy(labels.astype(np.int64))
    predicted: list[Tensor] = []
    for first in range(0, len(queries), QUERIES * len(devices)):
        starts = range(first, min(first + QUERIES * len(devices), len(queries)), QUERIES)
        searches = [
            _Search(_block(torch.from_numpy(queries), start, QUERIES, device))
            for start, device in zip(starts, devices, strict=False)
        ]
        for start in range(0, len(bank), KEYS):  # the devices take turns, so that none waits
            for search, rows, device in zip(searches, banks, devices, strict=False):
                search.see(_block(rows, start, KEYS, device), start, k)
        predicted += [search.vote(truth, classes, temperature) for search in searches]
    return torch.cat([votes.cpu() for votes in predicted]).numpy() if predicted else np.zeros(0, dtype=np.int64)


def _block(rows: Tensor, start: int, count: int, device: torch.device) -> Tensor:
    """Normalize some rows on a device."""
    return normalize(rows[start : start + count].to(device), dim=1)


class _Search:
    """The nearest neighbors of a block of queries among the keys that it has seen."""

    def __init__(self, queries: Tensor) -> None:
        self.queries = queries
        self.nearest = queries.new_empty(len(queries), 0)
        self.rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)

    def see(self, keys: Tensor, start: int, k: int) -> None:
        """Compare with keys M x D, which are the rows of the bank from `start` on."""
        with full_precision():
            similarity, here = (self.queries @ keys.T).topk(min(k, len(keys)), dim=1)
        nearest, rows = torch.cat([self.nearest, similarity], dim=1), torch.cat([self.rows, here + start], dim=1)
        self.nearest, kept = nearest.topk(min(k, nearest.shape[1]), dim=1)
        self.rows = rows.gather(1, kept)

    def vote(self, truth: Tensor, classes: int, temperature: float) -> Tensor:
        """Give the class with the most weight for each query, int64 [N]."""
        votes = self.nearest.new_zeros(len(self.nearest), classes)
        # exp relative to the nearest neighbor, or it overflows at small temperatures
        weights = ((self.nearest - self.nearest[:, :1]) / temperature).exp()
        return votes.scatter_add_(1, truth.to(self.rows.device)[self.rows], weights).argmax(dim=1)
