"""Pseudo-random numbers and permutations as pure functions of a key.

Nothing is stored, and any part costs the same: a keyed bijection (a Feistel network, narrowed to
the number of elements by cycle walking) permutes a billion positions in the memory of one, and
resuming at any step is free.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from moco.compiled import cached

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS = 8


def mix(words: Words | int) -> Words:
    """Scramble 64-bit words (the finalizer of SplitMix64, Steele et al. 2014)."""
    return _mix(np.asarray(words, dtype=np.uint64))


@cached(numba.vectorize, ["uint64(uint64)"])
def _mix(word: np.uint64) -> np.uint64:
    x = word + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key_of(*parts: int) -> Words:
    """Make one 64-bit key of several numbers; another order or value gives an unrelated key."""
    key = np.asarray(0x243F6A8885A308D3, dtype=np.uint64)  # no output of mix, which would cancel
    for part in parts:
        key = mix(key ^ mix(part))
    return key


def permute(positions: Integers, size: int, key: Words) -> Integers:
    """Send each position where a keyed permutation of range(size) puts it.

    Args:
        positions: int64 in [0, size), any shape.
        size: number of elements, below 2^62.
        key: a 64-bit key from `key_of`.

    Returns:
        int64, the shape of `positions`; all positions together give each of range(size) once.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    round_keys = [mix(key ^ mix(number)) for number in range(_ROUNDS)]
    result = np.asarray(positions, dtype=np.uint64).copy()
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        result[outside] = (left << half) | right
        outside[outside] = result[outside] >= np.uint64(size)
    return result.astype(np.int64)
