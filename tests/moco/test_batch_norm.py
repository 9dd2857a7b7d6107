"""Batch norm over groups."""

import pytest
import torch
from torch import nn

from moco.batch_norm import GroupBatchNorm2d


def test_each_group_is_normalised_as_by_a_batch_norm_of_its_own():
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
