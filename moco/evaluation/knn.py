"""Weighted k-nearest-neighbour classification (Wu et al. 2018), the probe that trains nothing."""

import numpy as np
import torch
from numpy.typing import NDArray

from moco.evaluation.features import Features

BLOCK = 1024  # queries at a time: memory is BLOCK x bank, whatever the number of queries


def knn_predict(
    queries: Features, bank: Features, labels: NDArray[np.int32], classes: int, k: int, temperature: float
) -> NDArray[np.int64]:
    """Predict a class for each query by the votes of its nearest neighbours.

    A neighbour at cosine similarity s votes for its class with exp(s / temperature).

    Args:
        queries: float32, N x D.
        bank: float32, M x D, features with known labels.
        labels: int32 [M], in [0, classes).
        classes: number of classes.
        k: neighbours; no more than M are used.
        temperature: above 0.

    Returns:
        int64 [N], the class with the most weight.
    """
    memory = torch.nn.functional.normalize(torch.from_numpy(bank), dim=1)
    truth = torch.from_numpy(labels.astype(np.int64))
    predicted = []
    for block in torch.from_numpy(queries).split(BLOCK):
        similarity = torch.nn.functional.normalize(block, dim=1) @ memory.T
        nearest, rows = similarity.topk(min(k, len(memory)), dim=1)
        votes = torch.zeros(len(block), classes)
        # exp relative to the nearest neighbour, or it overflows at small temperatures
        votes.scatter_add_(1, truth[rows], ((nearest - nearest[:, :1]) / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted).numpy() if predicted else np.zeros(0, dtype=np.int64)
