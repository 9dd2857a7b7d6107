"""Weighted k-nearest-neighbor classification (Wu et al. 2018), the probe that trains nothing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from moco.features.extract import Features

QUERIES, KEYS = 1024, 16384  # compared at a time: 64 MiB of similarities, whatever the size of the bank


def knn_predict(
    queries: Features, bank: Features, labels: NDArray[np.int32], classes: int, k: int, temperature: float
) -> NDArray[np.int64]:
    """Predict a class for each query by the votes of its nearest neighbors.

    A neighbor at cosine similarity s votes for its class with exp(s / temperature). Both sides may
    be memory-mapped; they are read block by block.

    Args:
        queries: float32, N x D.
        bank: float32, M x D, features with known labels.
        labels: int32 [M], in [0, classes).
        classes: number of classes.
        k: neighbors; no more than M are used.
        temperature: above 0.

    Returns:
        int64 [N], the class with the most weight.
    """
    truth = torch.from_numpy(labels.astype(np.int64))
    predicted = []
    for first in range(0, len(queries), QUERIES):
        block = normalize(torch.from_numpy(np.array(queries[first : first + QUERIES])), dim=1)
        nearest, rows = block.new_empty(len(block), 0), truth.new_empty(len(block), 0)
        for start in range(0, len(bank), KEYS):
            keys = normalize(torch.from_numpy(np.array(bank[start : start + KEYS])), dim=1)
            similarity, here = (block @ keys.T).topk(min(k, len(keys)), dim=1)
            nearest, rows = torch.cat([nearest, similarity], dim=1), torch.cat([rows, here + start], dim=1)
            nearest, kept = nearest.topk(min(k, nearest.shape[1]), dim=1)
            rows = rows.gather(1, kept)
        votes = torch.zeros(len(block), classes)
        # exp relative to the nearest neighbor, or it overflows at small temperatures
        votes.scatter_add_(1, truth[rows], ((nearest - nearest[:, :1]) / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted).numpy() if predicted else np.zeros(0, dtype=np.int64)
