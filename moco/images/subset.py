"""A part of a split: images with labels or without, or a share of them."""

from dataclasses import replace
from typing import Literal

import numpy as np

from moco.images.index import ShardSet
from moco.permutation import key_of, permute

_PURPOSE = 0xF4  # keeps this draw apart from the epoch plan's with the same seed


def subset(images: ShardSet, which: Literal["all", "labelled", "unlabelled"], fraction: float, seed: int) -> ShardSet:
    """Choose images of a split; they keep their order and are numbered from 0.

    Args:
        images: the split.
        which: all, or those with or without a label.
        fraction: share of those, in (0, 1]; at least one image if there are any.
        seed: chooses; a smaller share is part of every larger one.

    Returns:
        The split itself if all of it is chosen.
    """
    if which == "all" and fraction == 1:
        return images
    labelled = images.labels >= 0
    candidates = np.flatnonzero({"all": labelled | True, "labelled": labelled, "unlabelled": ~labelled}[which])
    count = min(len(candidates), max(1, round(fraction * len(candidates))))
    first = permute(np.arange(count), max(len(candidates), 1), key_of(seed, _PURPOSE))
    return replace(images, chosen=np.sort(candidates[first]), _files={})
