"""Weighted kNN against its definition."""

import numpy as np
import pytest
import torch

from moco.features import knn
from moco.features.knn import knn_predict


def by_definition(query, bank, labels, classes, k, temperature):
    similarity = (bank @ query) / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
    votes = np.zeros(classes)
    for row in np.argsort(-similarity)[:k]:
        votes[labels[row]] += np.exp(similarity[row] / temperature)
    return votes.argmax()


@pytest.mark.parametrize("devices", [1, 2, 5])
@pytest.mark.parametrize("keys", [4, 17, 60, 1000])
def test_it_is_the_class_with_the_most_exponential_votes(monkeypatch, keys, devices):
    monkeypatch.setattr(knn, "QUERIES", 7)
    monkeypatch.setattr(knn, "KEYS", keys)
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(60, 5)).astype(np.float32)
    queries = generator.normal(size=(20, 5)).astype(np.float32)
    labels = generator.integers(0, 4, 60).astype(np.int32)
    expected = [by_definition(query, bank, labels, 4, 9, 0.07) for query in queries]
    assert knn_predict(queries, bank, labels, 4, 9, 0.07, [torch.device("cpu")] * devices).tolist() == expected


def test_more_neighbors_than_the_bank_holds_and_tiny_temperatures_are_no_trouble():
    bank = np.eye(3, dtype=np.float32)
    assert knn_predict(bank, bank, np.array([2, 0, 1], np.int32), 3, 50, 1e-3).tolist() == [2, 0, 1]


def test_no_queries_give_no_predictions():
    bank = np.eye(3, dtype=np.float32)
    assert knn_predict(bank[:0], bank, np.zeros(3, np.int32), 1, 5, 0.1).tolist() == []
