"""Random numbers by name: pure functions, uniform, unrelated."""

import numpy as np

from moco.images.draws import Draws


def test_numbers_are_a_pure_function_of_seed_epoch_sample_view_and_name():
    alone = Draws.of(7, 3, np.array([42]))("crop", 5)[:, 0]
    assert np.array_equal(Draws.of(7, 3, np.array([5, 42, 9]))("crop", 5)[:, 1], alone)
    assert np.array_equal(Draws.of(7, 3, np.array([42]), views=1)("crop", 9)[:5, 0, 0], alone[:, 0])
    for other in (Draws.of(8, 3, np.array([42])), Draws.of(7, 4, np.array([42])), Draws.of(7, 3, np.array([43]))):
        assert not np.isclose(other("crop", 5)[:, 0], alone).any()
    assert not np.isclose(Draws.of(7, 3, np.array([42]))("flip", 5)[:, 0], alone).any()
    assert not np.isclose(alone[:, 0], alone[:, 1]).any()  # the two views of one image


def test_a_version_changes_no_numbers():
    """Resumed runs, and results that are compared, rest on them."""
    assert Draws.of(3, 1, np.array([5]))("crop", 2)[:, 0].tolist() == [
        [0.0031131031456252956, 0.6028402133536871],
        [0.9048858560126286, 0.7812801622248016],
    ]
