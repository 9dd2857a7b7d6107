"""The optimizers as settings, and what each is built of."""

import pytest
import torch
from torch import nn

from moco.optimizers import LARS, SGD, AdamW

NETWORK = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).requires_grad_(True)


def parameters():
    """All but the first layer's."""
    return [p.requires_grad_(name[0] != "0") for name, p in NETWORK.named_parameters()]


def test_what_is_frozen_is_no_parameter_of_the_optimizer():
    optimizer = SGD(kind="sgd", momentum=0.9, weight_decay=0.1).build(parameters(), on_gpu=False)
    (group,) = optimizer.param_groups
    assert [tuple(p.shape) for p in group["params"]] == [(4,), (4,), (2, 4), (2,)]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.0, 0.9, 0.1)


@pytest.mark.parametrize(
    "settings",
    [
        AdamW(kind="adamw", beta1=0.8, beta2=0.95, weight_decay=0.1),
        LARS(kind="lars", momentum=0.9, trust_coefficient=0.001, weight_decay=0.1),
    ],
)
def test_biases_and_norms_do_not_decay(settings):
    if settings.kind == "lars":
        pytest.importorskip("timm")
    matrices, vectors = settings.build(parameters(), on_gpu=False).param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(2, 4)]
    assert [tuple(p.shape) for p in vectors["params"]] == [(4,), (4,), (2,)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    if settings.kind == "adamw":
        assert matrices["betas"] == (0.8, 0.95)


def test_lars_steps_a_matrix_by_its_own_length_and_a_vector_by_its_gradient():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3))
    before = matrix.detach().clone(), vector.detach().clone()
    optimizer = LARS(kind="lars", momentum=0.0, trust_coefficient=0.01, weight_decay=0.0001).build(
        [matrix, vector], False
    )
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    matrix.grad, vector.grad = 100 * torch.randn(3, 3), torch.randn(3)
    optimizer.step()
    moved = float((matrix - before[0]).norm())
    assert moved == pytest.approx(0.5 * 0.01 * float(before[0].norm()), rel=1e-3)  # whatever the gradient's length
    assert torch.allclose(vector, before[1] - 0.5 * vector.grad)
