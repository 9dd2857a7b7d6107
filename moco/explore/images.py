"""What a page shows: images with their features, names and groups, wherever they come from."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moco.features.neighbors import Features
from moco.images.decode import Pixels
from moco.permutation import Integers

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Group:
    """A way to color images, such as by class.

    Attributes:
        values: names, in the order of their numbers.
        numbers: int32 [N], position in `values`; -1: none.
    """

    values: list[str]
    numbers: Numbers

    @classmethod
    def of(cls, names: list[str]) -> "Group":
        """Give names numbers in their order; an empty one is none."""
        values = sorted(set(names) - {""})
        places = {"": -1} | {name: number for number, name in enumerate(values)}
        return cls(values, np.array([places[name] for name in names], dtype=np.int32))

    @property
    def tells(self) -> bool:
        """Whether there are several."""
        return len(set(self.numbers.tolist())) > 1


@dataclass(frozen=True)
class Explored:
    """Images and what is known of them.

    Attributes:
        what: they are, in the page's title, such as `data/shards`.
        features: float32, N x D, finite.
        read: gives image i, uint8 H x W x 3; None where it cannot be read.
        names: of each, the path of its file from the folder of the project, or what is nearest to
            one; empty where none is known.
        files: bool [N], whether the name is the path of a file of its own, as a list for
            `moco fetch` has it.
        keys: WebDataset keys in lower case; empty: there are none.
        groups: by name; `class` is the label.
        all: number of images that these are a seeded sample of.
    """

    what: str
    features: Features
    read: Callable[[int], Pixels | None]
    names: list[str]
    files: NDArray[np.bool_]
    keys: list[str] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    all: int = 0

    def __len__(self) -> int:
        return len(self.features)

    @property
    def labelled(self) -> Integers:
        """Images with a label, int64."""
        group = self.groups.get("class")
        return np.flatnonzero(group.numbers >= 0) if group else np.zeros(0, dtype=np.int64)
