"""Features that no figure can be made of are refused: those that are not finite, or all one."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError

Features = NDArray[np.float32]
ROWS = 16384
"""Rows that are looked at at a time: 128 MiB at D = 2,048."""


DIVERGED = "the encoder has diverged: train it with a lower pretrain.lr_per_256"
COLLAPSED = "the encoder has collapsed (the warnings of pretraining name what to change), or the images are all one"
NOT_TRAINED = "training has no part in them: look at the images, and at pretrain.encoder"
"""What to do about features of pixels or of a network with random weights."""

OF_A_FILE = (
    "choose an encoder that has not diverged; for a file of another library, see that --mean and --std are its own"
)
"""What to do about features of an encoder that may be of anyone."""


def require_finite(features: Features, what: str, remedy: str) -> None:
    """Refuse features that are infinite or not a number.

    Args:
        features: float32, N x D; may be memory-mapped.
        what: they are of, which the message begins with.
        remedy: what to do, which it ends with.

    Raises:
        MocoError: some are.
    """
    broken = sum(int((~np.isfinite(block).all(axis=1)).sum()) for block in _blocks(features))
    if broken:
        raise MocoError(
            f"{what}: the features of {broken} of {len(features)} images are not finite, so nothing is made of"
            f" them; {remedy}"
        )


def require_different(features: Features, what: str, remedy: str) -> None:
    """Refuse features that are the same for every image; arguments as of `require_finite`.

    Raises:
        MocoError: they are, and there are several.
    """
    if len(features) > 1 and all((block == features[0]).all() for block in _blocks(features)):
        raise MocoError(
            f"{what}: all {len(features)} training images have the very same features, so no accuracy says anything;"
            f" {remedy}"
        )


def _blocks(features: Features) -> Iterator[Features]:
    return (features[start : start + ROWS] for start in range(0, len(features), ROWS))
