"""Neighbors, what to label first, and clusters are what their definitions say."""

import numpy as np
import pytest
import torch

from moco.explore.near import ROWS, clusters, most_useful, nearest_others, unit_rows


def unit(count: int, width: int = 12) -> torch.Tensor:
    features = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return unit_rows(features, torch.device("cpu"))


@pytest.mark.parametrize("count", [20, ROWS + 188])
def test_neighbors_are_those_of_comparing_all_pairs_without_the_image_itself(count):
    rows = unit(count)
    near = nearest_others(rows, 8)
    cosines = (rows @ rows.T).numpy()
    np.fill_diagonal(cosines, -np.inf)
    best = np.argsort(-cosines, axis=1)[:, :8]
    assert np.array_equal(near.rows, best)
    assert np.allclose(near.similarities, np.take_along_axis(cosines, best, 1), atol=1e-6)


def test_what_to_label_first_is_each_time_the_image_least_like_all_that_are_covered():
    rows = unit(80)
    cosines = (rows @ rows.T).numpy()
    known = [3, 40]
    ranked, reached = most_useful(rows, np.array(known), 10)
    for row, left in zip(ranked.tolist(), reached, strict=True):
        assert row == cosines[:, known].max(axis=1).argmin()
        known.append(row)
        assert left == pytest.approx(cosines[:, known].max(axis=1).min(), abs=1e-5)


@pytest.mark.parametrize("labelled", [0, 30])
def test_without_labels_and_with_all_of_them_the_ranking_begins_in_the_middle(labelled):
    rows = unit(30)
    ranked, _ = most_useful(rows, np.arange(labelled), 5)
    assert ranked[0] == (rows @ rows.mean(dim=0)).argmax()
    assert len(set(ranked.tolist())) == 5


def test_the_ranking_ends_when_the_rest_are_copies():
    rows = unit(4).repeat(5, 1)
    ranked, reached = most_useful(rows, np.zeros(0, dtype=np.int64), 20)
    assert sorted(ranked % 4) == [0, 1, 2, 3]
    assert reached[-1] == pytest.approx(1, abs=1e-4)


def test_clusters_are_the_groups_of_the_features_the_largest_first():
    centers = unit(3, 30)
    truth = np.repeat([2, 0, 1], [50, 30, 20])
    noise = 0.02 * torch.from_numpy(np.random.default_rng(1).normal(size=(100, 30)).astype(np.float32))
    rows = torch.nn.functional.normalize(centers[truth] + noise, dim=1)
    found = clusters(rows, 3, seed=0)
    assert found.tolist() == np.repeat([0, 1, 2], [50, 30, 20]).tolist()
    assert np.array_equal(found, clusters(rows, 3, seed=0))
