"""Batch norm over groups."""

import copy

import pytest
import torch
from operations import Operations
from torch import nn

from moco.encoders.batch_norm import GroupBatchNorm1d, GroupBatchNorm2d


def test_each_group_is_normalized_as_by_a_batch_norm_of_its_own():
    images = torch.randn(12, 5, 4, 4).requires_grad_()
    grouped = GroupBatchNorm2d(5, group_size=4)
    nn.init.uniform_(grouped.weight)
    separate = [nn.BatchNorm2d(5) for _ in range(3)]
    for norm in separate:
        norm.weight.data.copy_(grouped.weight.data)
    out = grouped(images)
    expected = torch.cat([norm(part) for norm, part in zip(separate, images.split(4), strict=True)])
    assert torch.allclose(out, expected, atol=1e-6)
    weights = torch.randn_like(out)
    gradient = torch.autograd.grad((out * weights).sum(), images)[0]
    assert torch.allclose(gradient, torch.autograd.grad((expected * weights).sum(), images)[0], atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_all_groups_at_once_give_what_one_after_the_other_gives(monkeypatch, layout, dtype, close):
    """What a GPU and a compiler take, beside what a CPU takes."""
    images = (3 * torch.randn(12, 5, 6, 6) + 2).to(dtype).contiguous(memory_format=layout)
    upstream = torch.randn(12, 5, 6, 6).to(dtype).contiguous(memory_format=layout)
    norm = GroupBatchNorm2d(5, group_size=4)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    if dtype == torch.float64:
        norm.double()
    found = []
    for compiling in (False, True):
        copied, x = copy.deepcopy(norm), images.clone().requires_grad_()
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
            out = copied(x)
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=layout)
        out.backward(upstream)
        found.append([out, x.grad, copied.weight.grad, copied.bias.grad, copied.running_mean, copied.running_var])
        assert int(copied.num_batches_tracked) == 1
    for one, all_at_once in zip(*found, strict=True):
        assert torch.allclose(one.double(), all_at_once.double(), rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_all_groups_at_once_give_may_be_changed_in_place(monkeypatch, dtype):
    """As the ReLU behind each norm does."""
    norm, images = GroupBatchNorm2d(5, group_size=4), torch.randn(12, 5, 6, 6).to(dtype).requires_grad_()
    gradients = []
    for inplace in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            out = nn.ReLU(inplace)(norm(images))
        gradients.append(torch.autograd.grad(out.square().sum(), images)[0])
    assert torch.equal(*gradients)


def test_all_groups_at_once_take_fewer_operations_than_groups(monkeypatch):
    counts = []
    for groups in (2, 8):
        norm = GroupBatchNorm2d(5, group_size=16 // groups)
        with monkeypatch.context() as patch, Operations() as operations:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            norm(torch.randn(16, 5, 4, 4, requires_grad=True)).sum().backward()
        counts.append(len(operations.seen))
    assert counts[0] == counts[1]


def test_running_statistics_are_the_mean_over_groups():
    images = torch.randn(12, 5, 4, 4) * 3 + 1
    grouped = GroupBatchNorm2d(5, group_size=4)
    grouped(images)
    separate = []
    for part in images.split(4):
        norm = nn.BatchNorm2d(5)
        norm(part)
        separate.append(norm)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(norm, name) for norm in separate]).mean(dim=0)
        assert torch.allclose(getattr(grouped, name), mean, atol=1e-6)


def test_evaluation_is_plain_batch_norm():
    grouped, plain = GroupBatchNorm2d(3, group_size=2).eval(), nn.BatchNorm2d(3).eval()
    images = torch.randn(5, 3, 2, 2)
    assert torch.equal(grouped(images), plain(images))


def test_a_batch_that_leaves_a_broken_group_is_refused():
    with pytest.raises(ValueError, match="10 images does not divide into groups of 4"):
        GroupBatchNorm2d(3, group_size=4)(torch.randn(10, 3, 2, 2))


def test_vectors_are_normalized_in_groups_too():
    vectors = torch.randn(12, 5)
    expected = torch.cat([nn.BatchNorm1d(5)(part) for part in vectors.split(4)])
    assert torch.allclose(GroupBatchNorm1d(5, 4)(vectors), expected, atol=1e-6)
    with pytest.raises(ValueError, match="expected vectors"):
        GroupBatchNorm1d(5, 4)(torch.randn(4, 5, 2, 2))
