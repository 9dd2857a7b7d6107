"""Keyed numbers and permutations: pure functions, and the same ones in every version."""

import numpy as np
import pytest

from moco.permutation import key_of, mix, permute


def test_words_are_mixed_as_splitmix64_mixes_its_counter():
    assert [hex(word) for word in mix(np.array([0, 0x9E3779B97F4A7C15], np.uint64))] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
    ]


def test_a_version_changes_neither_keys_nor_orders():
    """Resumed runs, and results that are compared, rest on these numbers."""
    assert hex(key_of(3, 1)) == "0xc3f1f92284e88505"
    orders = {
        3: [2, 1, 0],
        11: [3, 0, 5],
        64: [54, 48, 39],
        65: [55, 13, 53],
        1000000000000: [455285185355, 294713758942, 548888474713],
    }
    assert {size: permute(np.arange(3), size, key_of(3, 1)).tolist() for size in orders} == orders


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_permute_is_a_bijection_at_every_size(size):
    assert sorted(permute(np.arange(size), size, key_of(1, 2)).tolist()) == list(range(size))
