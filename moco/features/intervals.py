"""How much chance there is in an accuracy: an interval beside every figure."""

import math

import numpy as np
from numpy.typing import NDArray

Z = 1.96
"""Standard errors on each side: 95 % of such intervals hold the true accuracy."""


def wilson(share: float, images: int) -> tuple[float, float]:
    """Compute the 95 % interval of an accuracy (Wilson 1927), which holds for few images too.

    Args:
        share: of the images that were named right, in [0, 1].
        images: how many were looked at; 0 tells nothing: (0, 1).

    Returns:
        The lowest and the highest accuracy that are likely, in [0, 1].
    """
    if images < 1:
        return 0.0, 1.0
    weight = Z**2 / images
    middle = (share + weight / 2) / (1 + weight)
    half = Z * math.sqrt(share * (1 - share) / images + weight / (4 * images)) / (1 + weight)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def percent(share: float, images: int) -> str:
    """Write an accuracy with its interval: `45.2% (41.0 to 49.5)`."""
    low, high = wilson(share, images)
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def beyond_chance(better: float, worse: float, images: int) -> bool:
    """Tell whether one accuracy is above another by more than chance makes on this many images."""
    error = math.sqrt((better * (1 - better) + worse * (1 - worse)) / max(images, 1))
    return better - worse > Z * error


def commonest(train: NDArray[np.int32], test: NDArray[np.int32], most: int = 1) -> float:
    """Compute the accuracy of naming the commonest classes of training, whatever the image.

    Args:
        train: int32 [N], classes of the training images.
        test: int32 [M], classes of the test images.
        most: how many classes are named, as for top-5.
    """
    named = np.argsort(-np.bincount(train), kind="stable")[:most]
    return float(np.isin(test, named).mean())
