"""All pairs of 64-bit hashes that differ in at most 7 bits, without comparing all pairs.

Two hashes that differ in at most 7 bits differ in at most one bit in one of their four bands of 16
bits (Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing",
CVPR 2012). For each band the hashes are sorted by it, and each hash looks only at those whose band
is its own or differs from it in one bit: nothing is missed, and of a million random hashes each
meets about a thousand.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from moco.compiled import cached

FARTHEST = 7
"""Largest distance for which four bands miss nothing."""
BANDS, BITS = 4, 16
_BUCKETS = 1 << BITS
Hashes = NDArray[np.uint64]


class Pairs(NamedTuple):
    """Pairs of numbers i < j, and their distance in bits: int64, int64 and uint8 [P]."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    distance: NDArray[np.uint8]


def pairs_within(distance: int, hashes: Hashes, queries: Hashes | None = None) -> Pairs:
    """Find every pair i < j whose hashes differ in at most `distance` bits, by rising i and j.

    Args:
        distance: 0 to 7.
        hashes: uint64 [N].
        queries: uint64 [N], compared with `hashes`: those of the mirror images. None: `hashes`
            themselves.
    """
    return pairs_between(distance, hashes if queries is None else queries, hashes)


def pairs_between(distance: int, queries: Hashes, hashes: Hashes, first: int = 0, other: int = 0) -> Pairs:
    """Find the pairs of `pairs_within` between a range of queries and a range of hashes.

    Memory: 64 bytes a hash and 17 a pair.

    Args:
        distance: 0 to 7.
        queries: uint64 [M]: the numbers i from `first` on.
        hashes: uint64 [N]: the numbers j from `other` on.
        first: number of the first query.
        other: number of the first hash.
    """
    if not 0 <= distance <= FARTHEST:
        raise ValueError(f"distance = {distance}: four bands find pairs of at most {FARTHEST} bits")
    orders, starts = _sorted_by_band(hashes)
    flips = np.array([0, *(1 << bit for bit in range(BITS if distance >= BANDS else 0))], np.uint64)
    limit, ordered, behind = np.uint64(distance), hashes[orders], np.int64(other - first)
    counts = np.zeros(len(queries), np.int64)
    nothing = np.zeros(0, np.int64)
    _scan(queries, ordered, orders, starts, flips, limit, behind, counts, nothing, nothing, np.zeros(0, np.uint8))
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    found = np.zeros(total, np.int64), np.zeros(total, np.int64), np.zeros(total, np.uint8)
    _scan(queries, ordered, orders, starts, flips, limit, behind, ends - counts, *found)
    return in_order(found[0] + first, found[1] + other, found[2])


def in_order(i: NDArray[np.int64], j: NDArray[np.int64], distance: NDArray[np.uint8]) -> Pairs:
    """Sort pairs by rising i and j."""
    order = np.lexsort((j, i))
    return Pairs(i[order], j[order], distance[order])


def _sorted_by_band(hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort by each band: the order, 4 x N, and where each value of the band begins, 4 x 65,537."""
    orders, starts = [], []
    for band in range(BANDS):
        value = (hashes >> np.uint64(BITS * band)) & np.uint64(_BUCKETS - 1)
        orders.append(np.argsort(value, kind="stable"))
        counts = np.bincount(value.astype(np.int64), minlength=_BUCKETS)
        starts.append(np.concatenate([[0], np.cumsum(counts)]))
    return np.stack(orders).astype(np.int64), np.stack(starts).astype(np.int64)


@cached(numba.njit)
def _bits(x):  # type: ignore[no-untyped-def]
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@cached(numba.njit, parallel=True)
def _scan(asked, ordered, orders, starts, flips, limit, behind, places, first, second, distances):  # type: ignore[no-untyped-def]
    """Count the pairs of each i into `places`; where `first` has room, write them from there.

    behind: how much the number of the first hash exceeds that of the first query.
    """
    mask = np.uint64(_BUCKETS - 1)
    near = np.uint64(1 if len(flips) > 1 else 0)
    write = len(first) > 0
    for i in numba.prange(len(asked)):
        at = places[i]
        for band in range(BANDS):
            value = (asked[i] >> np.uint64(BITS * band)) & mask
            for flip in flips:
                bucket = np.int64(value ^ flip)
                for k in range(starts[band, bucket], starts[band, bucket + 1]):
                    apart = asked[i] ^ ordered[band, k]
                    distance = _bits(apart)
                    if distance > limit:
                        continue
                    j = orders[band, k]
                    if j + behind <= i:
                        continue
                    seen = False  # in an earlier band
                    for earlier in range(band):
                        seen |= _bits((apart >> np.uint64(BITS * earlier)) & mask) <= near
                    if seen:
                        continue
                    if write:
                        first[at], second[at], distances[at] = i, j, distance
                    at += 1
        if not write:
            places[i] = at
