"""The random numbers behind views, as pure functions: no generator has a state to store.

An operation draws under its own name, so a new operation changes no numbers of the others.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moco.permutation import Integers, Words, key_of, mix

Uniforms = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """Draw uniform random numbers for some views.

    Attributes:
        keys: uint64 [...], one for each view.
    """

    keys: Words

    @classmethod
    def of(cls, seed: int, epoch: int, samples: Integers, views: int = 2) -> "Draws":
        """Key the views of some samples.

        Args:
            seed: of the run.
            epoch: counted from 0.
            samples: int64 [N], indices of the images.
            views: V, views of each image.

        Returns:
            Draws for N x V views.
        """
        bases = mix(key_of(seed, epoch) ^ mix(samples.astype(np.uint64)))
        return cls(mix(bases[:, None] ^ mix(np.arange(views, dtype=np.uint64))))

    def __call__(self, name: str, count: int) -> Uniforms:
        """Draw `count` numbers a view for the operation `name`: float64 [count, ...] in [0, 1).

        A larger count appends numbers and leaves the first ones as they are.
        """
        slots = mix(_key_of_name(name) + np.arange(count, dtype=np.uint64))
        words = mix(self.keys ^ slots.reshape(count, *[1] * self.keys.ndim))
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@cache
def _key_of_name(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))
