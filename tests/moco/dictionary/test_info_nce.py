"""InfoNCE against the paper's equation 1 written out term by term."""

import math

import pytest
import torch
from torch.nn import functional as F

from moco.dictionary.info_nce import _LOGITS, info_nce, info_nce_in_batch


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


def test_the_rank_of_the_positive_counts_the_negatives_above_it():
    q = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])  # the third is as similar as the key
    contrast = info_nce(q, torch.tensor([[0.6, 0.8]]), negatives, 0.1)
    assert contrast.rank_of_positive.tolist() == [2]


def test_with_the_batch_as_dictionary_rank_and_loss_are_those_of_cross_entropy():
    q, k, own = unit(5, 8), unit(7, 8), torch.tensor([6, 0, 2, 3, 1])
    contrast = info_nce_in_batch(q, k, own, 0.2)
    logits = q @ k.T / 0.2
    assert torch.allclose(contrast.loss, F.cross_entropy(logits, own), atol=1e-12)
    above = [sum(bool(one > row[key]) for one in row) for row, key in zip(logits, own, strict=True)]
    assert contrast.rank_of_positive.tolist() == above
    assert len(set(above)) > 1


def test_bfloat16_vectors_are_compared_in_float32():
    q, k, queue = unit(4, 8).bfloat16(), unit(4, 8).bfloat16(), unit(10, 8).float()
    contrast = info_nce(q, k, queue, 0.2)
    assert contrast.loss.dtype == torch.float32
    assert torch.equal(contrast.loss, info_nce(q.float(), k.float(), queue, 0.2).loss)


@pytest.mark.parametrize("in_batch", [False, True])
def test_autocast_leaves_similarities_loss_and_gradient_in_float32(in_batch):
    q, k, queue = unit(8, 32).float().requires_grad_(), unit(8, 32).float(), unit(50, 32).float()

    def compare():
        return info_nce_in_batch(q, k, torch.arange(8), 0.2) if in_batch else info_nce(q, k, queue, 0.2)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = compare()
    full = compare()
    assert torch.equal(mixed.loss, full.loss)
    assert torch.equal(mixed.rank_of_positive, full.rank_of_positive)
    assert torch.equal(*(torch.autograd.grad(one.loss, q)[0] for one in (mixed, full)))


def test_any_number_of_blocks_gives_what_cross_entropy_on_all_logits_gives(monkeypatch):
    sizes, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *given: sizes.append(given[1].numel()) or addmm(*given))
    for held in (1 << 20, 40, 1):
        monkeypatch.setitem(_LOGITS, "cpu", held)
        q, k, queue = unit(8, 16).requires_grad_(), unit(8, 16), unit(101, 16)
        contrast = info_nce(q, k, queue, 0.07)
        (gradient,) = torch.autograd.grad(contrast.loss, q)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.07
        expected = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
        (of_expected,) = torch.autograd.grad(expected, q)
        assert torch.allclose(contrast.loss, expected, atol=1e-12)
        assert torch.allclose(gradient, of_expected, atol=1e-12)
        assert torch.equal(contrast.rank_of_positive, (logits[:, 1:] > logits[:, :1]).sum(dim=1))
    assert sizes == [808, *[40] * 20, 8, *[8] * 101]  # logits of a block


def test_logits_that_overflow_a_float32_exponential_are_no_trouble():
    q, k, queue = (unit(8, 16).float() for _ in range(3))
    q.requires_grad_()
    loss = info_nce(q, k, queue, 1e-3).loss  # logits up to 1000; exp(89) is infinite
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1).double() / 1e-3
    assert torch.isclose(loss.double(), F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)), rtol=1e-4)
    loss.backward()
    assert q.grad.isfinite().all()


def test_the_loss_may_be_scaled_before_backward():
    q, k, queue = unit(3, 6).requires_grad_(), unit(3, 6), unit(7, 6)
    (whole,) = torch.autograd.grad(info_nce(q, k, queue, 0.5).loss, q)
    (half,) = torch.autograd.grad(info_nce(q, k, queue, 0.5).loss * 0.5, q)
    assert torch.allclose(half, whole / 2)


def test_without_negatives_there_is_nothing_to_learn():
    queries = F.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    found = info_nce(queries, F.normalize(torch.randn(4, 3), dim=1), torch.empty(0, 3), 0.2)
    found.loss.backward()
    assert found.loss.abs() < 1e-6
    assert queries.grad.abs().max() < 1e-6
    assert found.rank_of_positive.tolist() == [0] * 4
