"""Nearest neighbors among features, by cosine similarity."""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


def unit_rows(features: Features) -> Features:
    """Divide every row of features N x D by its L2 norm; a row of zeros stays zeros."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)


def nearest(queries: Features, gallery: Features, k: int) -> tuple[NDArray[np.int64], Features]:
    """Find the k most similar gallery rows of each query, best first; of equals, the earlier row.

    Args:
        queries: float32, Q x D; few, since all Q x N similarities are held at once.
        gallery: float32, N x D.
        k: how many; a smaller gallery gives as many as it has.

    Returns:
        Row numbers (int64) and cosine similarities (float32), each Q x min(k, N).
    """
    similarities = unit_rows(queries) @ unit_rows(gallery).T
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(similarities, best, axis=1)
