"""Images of some splits, with what their shards know of them."""

from collections.abc import Sequence

import numpy as np

from moco.explore.images import Explored, Group
from moco.features.neighbors import Features
from moco.images.batches import read_image
from moco.images.decode import Pixels
from moco.images.index import ShardSet
from moco.permutation import Integers


def of_splits(what: str, splits: Sequence[ShardSet], rows: Sequence[Integers], features: Features, of: int) -> Explored:
    """Give images of some splits by keys, labels and splits, which the shards know themselves.

    Args:
        what: they are, for the title.
        splits: of one set.
        rows: int64, images of each.
        features: of all these, float32 N x D.
        of: number of images that they are a sample of.
    """
    places = [(split, int(row)) for split, mine in zip(splits, rows, strict=True) for row in mine]

    def read(i: int) -> Pixels:
        return read_image(*places[i])

    labels = np.array([split.labels[row] for split, row in places], dtype=np.int32)
    groups = {"class": Group(list(splits[0].classes), labels), "split": Group.of([split.split for split, _ in places])}
    keys = [split.key(row) for split, row in places]
    return Explored(what, features, read, [""] * len(keys), np.zeros(len(keys), dtype=bool), keys, groups, of)
