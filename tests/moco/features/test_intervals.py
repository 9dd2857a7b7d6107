"""How much chance there is in an accuracy."""

import numpy as np
import pytest

from moco.features.intervals import beyond_chance, commonest, percent, wilson


@pytest.mark.parametrize(
    ("share", "images", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 1, 0.2065, 1.0), (0.9, 1000, 0.8799, 0.9171)],
)  # of R's prop.test(correct=FALSE)
def test_it_is_wilsons_interval(share, images, low, high):
    assert wilson(share, images) == pytest.approx((low, high), abs=1e-4)


def test_no_image_tells_nothing():
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_an_accuracy_is_written_with_its_interval():
    assert percent(0.5, 100) == "50.0% (40.4 to 59.6)"


def test_nineteen_of_twenty_intervals_hold_the_true_accuracy():
    found = np.random.default_rng(0).binomial(200, 0.3, 2000) / 200
    held = [low <= 0.3 <= high for low, high in (wilson(share, 200) for share in found)]
    assert 0.93 < np.mean(held) < 0.97


def test_a_lead_counts_where_the_images_are_many():
    assert beyond_chance(0.85, 0.80, 3000)
    assert not beyond_chance(0.85, 0.80, 100)
    assert not beyond_chance(0.80, 0.85, 3000)


def test_the_commonest_classes_are_those_of_training():
    train, test = np.array([2, 2, 2, 0, 0, 1], np.int32), np.array([0, 0, 0, 2], np.int32)
    assert commonest(train, test) == 0.25
    assert commonest(train, test, most=2) == 1.0
