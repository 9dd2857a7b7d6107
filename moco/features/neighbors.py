"""Nearest neighbors among features, by cosine similarity."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from moco.devices import full_precision
from moco.features.placing import ON_CPU, Devices, fetched

Features = NDArray[np.float32]
ROWS = 16384
"""Rows that a device normalizes and compares at a time: 128 MiB at D = 2,048."""


def nearest(
    queries: Features, gallery: Features, k: int, devices: Devices = ON_CPU
) -> tuple[NDArray[np.int64], Features]:
    """Find the k most similar gallery rows of each query, best first; of equals, the earlier row.

    The gallery may be memory-mapped; each device reads `ROWS` of it in its turn.

    Args:
        queries: float32, Q x D; few, since all Q x N similarities are held at once.
        gallery: float32, N x D.
        k: how many; a smaller gallery gives as many as it has.
        devices: share the gallery.

    Returns:
        Row numbers (int64) and cosine similarities (float32), each Q x min(k, N).
    """
    here = {device: normalize(torch.from_numpy(queries).to(device), dim=1) for device in devices}

    def compared(block: int) -> torch.Tensor:
        device = devices[block % len(devices)]
        rows = torch.from_numpy(gallery[block * ROWS : (block + 1) * ROWS]).to(device)
        with full_precision():
            return here[device] @ normalize(rows, dim=1).T

    parts = fetched(compared(block) for block in range(max(1, -(-len(gallery) // ROWS))))
    similarities = np.concatenate([part.numpy() for part in parts], axis=1)
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(similarities, best, axis=1)
