import numpy as np
import pytest

from moco.duplicates.search import FARTHEST, pairs_within


def hashes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)


def changed(value: np.uint64, bits: int, seed: int) -> np.uint64:
    which = np.random.default_rng(seed).choice(64, bits, replace=False)
    return value ^ np.bitwise_or.reduce(np.uint64(1) << which.astype(np.uint64))


@pytest.mark.parametrize("distance", range(FARTHEST + 1))
def test_it_finds_exactly_the_pairs_that_comparing_all_finds(distance):
    found = hashes(300)
    for number in range(100):  # pairs of every distance up to 9 bits
        found[200 + number] = changed(found[number], number % 10, number)
    apart = np.bitwise_count(found[:, None] ^ found[None])
    i, j = np.nonzero(np.triu(apart <= distance, 1))
    pairs = pairs_within(distance, found)
    assert (pairs.i.tolist(), pairs.j.tolist()) == (i.tolist(), j.tolist())
    assert (pairs.distance == apart[i, j]).all()
    assert len(pairs.i) >= 10 * (distance + 1)


def test_hashes_of_mirror_images_are_compared_with_those_of_images():
    found = hashes(50)
    mirrors = hashes(200)[150:]
    mirrors[3] = changed(found[40], 2, 0)
    mirrors[9] = found[9]  # its own mirror image
    pairs = pairs_within(4, found, mirrors)
    assert (pairs.i.tolist(), pairs.j.tolist(), pairs.distance.tolist()) == ([3], [40], [2])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_hashes_have_no_pair(count):
    assert len(pairs_within(7, hashes(count)).i) == 0


def test_a_distance_that_four_bands_do_not_cover_is_refused():
    with pytest.raises(ValueError, match="at most 7"):
        pairs_within(8, hashes(2))
