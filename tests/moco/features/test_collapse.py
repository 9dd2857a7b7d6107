"""The collapse measures tell spread features from collapsed ones."""

import numpy as np
import pytest

from moco.features import collapse
from moco.features.collapse import effective_rank, feature_spread


@pytest.fixture
def noise() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("dim", [16, 256])
def test_directions_all_over_the_sphere_have_spread_one_whatever_the_dimension(noise, dim):
    assert feature_spread(noise.standard_normal((4000, dim)).astype(np.float32)) == pytest.approx(1, abs=0.01)


def test_one_point_has_no_spread_even_if_lengths_differ(noise):
    lengths = noise.uniform(1, 9, (500, 1)).astype(np.float32)
    assert feature_spread(lengths * np.ones((1, 32), np.float32)) < 1e-3


def test_spread_ignores_the_length_of_features(noise):
    features = noise.standard_normal((300, 8)).astype(np.float32)
    assert feature_spread(features * 1000) == pytest.approx(feature_spread(features), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_effective_rank_counts_orthogonal_directions_used_equally(rank):
    features = np.tile(np.eye(24, dtype=np.float32)[:rank], (50, 1))
    assert effective_rank(features) == pytest.approx(rank, rel=1e-6)


def test_tiny_noise_around_one_point_does_not_pass_for_a_rich_representation(noise):
    collapsed = np.ones((1000, 64), np.float32) + 1e-5 * noise.standard_normal((1000, 64)).astype(np.float32)
    assert effective_rank(collapsed) < 1.1
    assert feature_spread(collapsed) < 1e-3


@pytest.mark.parametrize("rows", [7, 50, 64, 300])
def test_pieces_of_any_size_measure_what_the_definition_says(noise, monkeypatch, rows):
    monkeypatch.setattr(collapse, "ROWS", rows)
    features = np.maximum(noise.standard_normal((300, 40)), 0).astype(np.float32)
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    shares = np.linalg.svd(unit, compute_uv=False)
    shares /= shares.sum()
    assert effective_rank(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert feature_spread(features) == pytest.approx(unit.std(axis=0).mean() * 40**0.5, rel=1e-9)


def test_a_dead_encoder_that_gives_zeros_has_the_lowest_measures():
    zeros = np.zeros((5, 4), np.float32)
    assert feature_spread(zeros) == 0
    assert effective_rank(zeros) == 1
