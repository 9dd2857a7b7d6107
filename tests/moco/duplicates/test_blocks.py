"""The search in blocks finds the pairs that the whole search finds, and continues after a stop."""

import numpy as np
import pytest
from piece_engines import Here

from moco.duplicates.blocks import Elsewhere
from moco.duplicates.search import pairs_within


@pytest.fixture
def hashes():
    """200 hashes, many of them near to each other."""
    generator = np.random.default_rng(0)
    centers = generator.integers(0, 2**64, 20, dtype=np.uint64).repeat(10)
    return centers ^ (np.uint64(1) << generator.integers(0, 64, 200).astype(np.uint64))


@pytest.mark.parametrize("fewest", [1, 30, 199, 200])
@pytest.mark.parametrize("mirrored", [False, True])
def test_blocks_of_any_size_find_the_same_pairs(hashes, tmp_path, monkeypatch, fewest, mirrored):
    monkeypatch.setattr("moco.duplicates.blocks.FEWEST", fewest)
    queries = np.roll(hashes, 3) if mirrored else None
    whole = pairs_within(4, hashes, queries)
    found = Elsewhere(Here(), tmp_path, "check").pairs_within(4, hashes, queries)
    assert len(whole.i) > 100
    for one, other in zip(whole, found, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_was_stopped_continues_with_the_blocks_that_are_left(hashes, tmp_path, monkeypatch):
    monkeypatch.setattr("moco.duplicates.blocks.FEWEST", 50)
    with pytest.raises(KeyboardInterrupt):
        Elsewhere(Here(stop_after=4), tmp_path, "check").pairs_within(4, hashes)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("*-*.npy"))) == 4
    searched = []
    monkeypatch.setattr(
        "moco.duplicates.blocks.pairs_between", lambda *given: searched.append(given) or _between(*given)
    )
    found = Elsewhere(Here(), tmp_path, "check").pairs_within(4, hashes)
    assert len(searched) == 10 - 4
    np.testing.assert_array_equal(found.i, pairs_within(4, hashes).i)


def _between(*given):
    from moco.duplicates.search import pairs_between

    return pairs_between(*given)
