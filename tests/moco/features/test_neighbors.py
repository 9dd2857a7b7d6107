"""Nearest neighbors are the most similar rows, in a fixed order."""

import numpy as np
import pytest
import torch

from moco.features import neighbors
from moco.features.neighbors import nearest


@pytest.mark.parametrize(("block", "devices"), [(1000, 1), (7, 1), (7, 2), (13, 3)])
def test_neighbors_are_those_of_the_definition(monkeypatch, block, devices):
    monkeypatch.setattr(neighbors, "ROWS", block)
    rng = np.random.default_rng(1)
    queries, gallery = rng.standard_normal((5, 7)), rng.standard_normal((40, 7))
    several = [torch.device("cpu")] * devices
    rows, similarities = nearest(queries.astype(np.float32), gallery.astype(np.float32), 6, several)
    for query, found, values in zip(queries, rows, similarities, strict=True):
        cosines = gallery @ query / np.linalg.norm(gallery, axis=1) / np.linalg.norm(query)
        assert found.tolist() == np.argsort(-cosines)[:6].tolist()
        np.testing.assert_allclose(values, np.sort(cosines)[::-1][:6], rtol=1e-4)


def test_length_of_a_feature_does_not_matter():
    gallery = np.array([[100, 100], [0.01, 0]], np.float32)
    rows, similarities = nearest(np.array([[5, 0]], np.float32), gallery, 1)
    assert rows.tolist() == [[1]]
    assert similarities[0, 0] == 1


def test_equals_come_in_the_order_of_the_gallery():
    rows, _ = nearest(np.ones((1, 2), np.float32), np.ones((50, 2), np.float32), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_a_small_gallery_gives_what_it_has():
    rows, similarities = nearest(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), 9)
    assert rows.shape == similarities.shape == (2, 4)
    assert nearest(np.ones((2, 3), np.float32), np.ones((0, 3), np.float32), 9)[0].shape == (2, 0)
