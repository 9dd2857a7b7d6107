"""InfoNCE against the paper's equation 1 written out term by term."""

import math

import torch
from torch.nn import functional as F

from moco.dictionary import info_nce


def unit(rows: int, dim: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, dtype=torch.float64), dim=1)


def test_it_equals_equation_1_summed_by_hand():
    q, k, queue = unit(4, 8), unit(4, 8), unit(10, 8)
    expected = 0.0
    for n in range(4):
        positive = math.exp(float(q[n] @ k[n]) / 0.2)
        negatives = sum(math.exp(float(q[n] @ key) / 0.2) for key in queue)
        expected -= math.log(positive / (positive + negatives)) / 4
    assert abs(info_nce(q, k, queue, 0.2).loss.item() - expected) < 1e-12


def test_its_gradient_pulls_to_the_key_and_pushes_from_the_queue():
    q, k, queue = unit(3, 6).requires_grad_(), unit(3, 6), unit(7, 6)
    info_nce(q, k, queue, 0.5).loss.backward()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1).detach() / 0.5
    p = logits.softmax(dim=1)
    expected = ((p[:, :1] - 1) * k + p[:, 1:] @ queue) / 0.5 / 3
    assert torch.allclose(q.grad, expected, atol=1e-12)


def test_a_random_query_stands_at_chance_at_high_temperature():
    loss = info_nce(unit(64, 16), unit(64, 16), unit(1000, 16), 1000.0).loss
    assert abs(loss.item() - math.log(1001)) < 1e-3


def test_the_rank_of_the_positive_counts_the_negatives_above_it():
    q = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    contrast = info_nce(q, torch.tensor([[0.6, 0.8]]), negatives, 0.1)
    assert contrast.rank_of_positive.tolist() == [2]


def test_bfloat16_vectors_are_compared_in_float32():
    q, k, queue = unit(4, 8).bfloat16(), unit(4, 8).bfloat16(), unit(10, 8).float()
    contrast = info_nce(q, k, queue, 0.2)
    assert contrast.loss.dtype == torch.float32
    assert torch.equal(contrast.loss, info_nce(q.float(), k.float(), queue, 0.2).loss)
