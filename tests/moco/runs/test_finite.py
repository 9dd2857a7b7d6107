"""Weights are asked before they are saved."""

import pytest
import torch
from torch import nn

from moco.processes import Processes
from moco.runs.finite import weights_are_finite

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (1e10, True), (float("nan"), False), (1e30, False)])
def test_weights_and_running_statistics_must_be_usable_numbers(value, finite):
    for name in ("weight", "running_mean"):
        norm = nn.BatchNorm2d(3)
        getattr(norm, name).data[1] = value
        assert weights_are_finite(norm, ALONE) == finite


def test_a_mask_that_is_infinite_on_purpose_is_no_broken_weight():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((3, 3), -float("inf")).triu(1))
    assert weights_are_finite(model, ALONE)


def test_half_precision_is_no_overflow():
    assert weights_are_finite(
        nn.Linear(2, 2).half().requires_grad_(False).apply(lambda m: m.weight.fill_(500.0)), ALONE
    )
