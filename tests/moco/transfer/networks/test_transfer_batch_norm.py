"""Batch norm while fine-tuning: synchronized, frozen, local, and re-estimated."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transfer_material import spawn

from moco.encoders.batch_norm import GroupBatchNorm2d
from moco.errors import MocoError
from moco.processes import Processes, join
from moco.transfer.networks.batch_norm import FrozenBatchNorm2d, SynchronizedBatchNorm2d, reestimate, set_batch_norm

ALONE = Processes(0, 1, torch.device("cpu"))
SIZES = {2: [5, 2], 3: [4, 3, 0]}
"""Images of each process, of the same seven in all."""


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two convolutions with batch norms; the same weights every time."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        GroupBatchNorm2d(4, 2),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5, eps=1e-3, momentum=0.3)),
    )
    for norm in (model[1], model[3][1]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return model.to(dtype)


def batches() -> tuple[Tensor, Tensor]:
    """Two batches of seven images far from mean 0, and what their outputs are weighted with."""
    random = torch.Generator().manual_seed(1)
    images = 3 * torch.randn(2, 7, 3, 6, 5, generator=random, dtype=torch.float64) + 20
    return images, torch.randn(2, 7, 5, 4, 3, generator=random, dtype=torch.float64)


def two_steps(model: nn.Module, mine: slice) -> dict[str, list[Tensor]]:
    """Outputs, gradients and running statistics of two forward and backward passes."""
    parameters = list(model.parameters())
    seen: dict[str, list[Tensor]] = {"outputs": [], "inputs": [], "parameters": [], "buffers": []}
    for images, weights in zip(*batches(), strict=True):
        own = images[mine].requires_grad_()
        outputs = model(own)
        gradients = torch.autograd.grad((outputs * weights[mine]).sum(), [own, *parameters])
        seen["outputs"].append(outputs.detach())
        seen["inputs"].append(gradients[0])
        seen["parameters"] += gradients[1:]
    seen["buffers"] = [buffer.clone() for buffer in model.buffers()]
    return seen


class Ends(nn.BatchNorm2d):
    """timm's norm with an activation, as timm names and computes it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.PReLU(channels)

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


Ends.__name__ = "BatchNormAct2d"


@pytest.mark.parametrize("kind", ["synchronized", "frozen", "local"])
@pytest.mark.parametrize("training", [True, False])
def test_the_activation_in_which_a_norm_ends_stays_and_is_trained(kind, training):
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    norm = Ends(3)
    norm.running_mean.fill_(0.1)
    wanted = Ends(3)
    wanted.load_state_dict(norm.state_dict())
    model = set_batch_norm(nn.Sequential(norm), kind, ALONE).train(training)
    assert torch.equal(model(images), wanted.train(training and kind != "frozen")(images))
    assert model.state_dict().keys() == {f"0.{name}" for name in wanted.state_dict()}
    model(images).sum().backward()
    assert model[0].act.weight.grad is not None
    assert (model[0].weight.grad is None) == (kind == "frozen")
    reestimate(model, run_batches(model, [images]), ALONE)
    if kind != "frozen":
        torch.testing.assert_close(model[0].running_mean, images.mean(dim=(0, 2, 3)))


def test_a_norm_whose_arithmetic_is_not_known_is_refused_by_name():
    class Doubled(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with pytest.raises(MocoError, match="a Doubled normalizes over the batch in a way that is not known"):
        set_batch_norm(nn.Sequential(Doubled(3)), "local", None)


def run_batches(model: nn.Module, batches: list[Tensor]) -> list[Callable[[], None]]:
    return [partial(model, images) for images in batches]


def in_each_process(folder: Path) -> None:
    """Each process leaves what it computed from its images."""
    processes = join("cpu")
    rank, world_size = processes.rank, processes.world_size
    end = sum(SIZES[world_size][: rank + 1])
    mine = slice(end - SIZES[world_size][rank], end)
    model = set_batch_norm(network(), "synchronized", processes)
    seen: dict[str, object] = dict(two_steps(model, mine))
    reestimate(model, run_batches(model, list(batches()[0][:, mine])), processes)
    seen["precise"] = [buffer.clone() for buffer in model.buffers()]
    local = set_batch_norm(nn.BatchNorm2d(3).double(), "local", processes)
    # the first process holds two batches, the others one
    own = [batches()[0][0, mine], batches()[0][1, mine]][: 2 if rank == 0 else 1] if end > mine.start else []
    reestimate(local, run_batches(local, own), processes)
    seen["local"] = [own, local.running_mean, local.running_var]
    torch.save(seen, folder / f"{rank}.pt")


@pytest.fixture(scope="module", params=[2, 3])
def several(request, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of several processes saw."""
    folder = tmp_path_factory.mktemp("processes")
    spawn(in_each_process, request.param, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.fixture(scope="module")
def one() -> dict[str, list[Tensor]]:
    """What one process sees that holds the whole batch, with torch's own batch norm."""
    model = set_batch_norm(network(), "local", None)
    seen = two_steps(model, slice(None))
    reestimate(model, run_batches(model, list(batches()[0])), None)
    return seen | {"precise": list(model.buffers())}


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_several_processes_normalize_as_one_with_all_images(several, one):
    for step in range(2):
        for name in ("outputs", "inputs"):
            assert close(torch.cat([seen[name][step] for seen in several]), one[name][step]), name
    for number, expected in enumerate(one["parameters"]):
        assert close(sum(seen["parameters"][number] for seen in several), expected)
    for seen in several:
        for found, expected in zip(seen["buffers"], one["buffers"], strict=True):
            assert close(found.double(), expected.double())


def test_re_estimated_statistics_of_several_processes_are_those_of_one(several, one):
    for seen in several:
        for found, expected, before in zip(seen["precise"], one["precise"], one["buffers"], strict=True):
            assert close(found.double(), expected.double())
            assert not torch.equal(found, before)


def test_local_batches_of_all_processes_are_re_estimated_together(several):
    everything = torch.cat([batch for seen in several for batch in seen["local"][0]]).transpose(0, 1).flatten(1)
    for _, mean, variance in (seen["local"] for seen in several):
        assert close(mean, everything.mean(dim=1))
        assert close(variance, everything.var(dim=1, correction=0))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_alone_it_is_torchs_batch_norm(momentum):
    ours, plain = SynchronizedBatchNorm2d(3, ALONE, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    for _ in range(2):
        results = []
        images, weights = torch.randn(6, 3, 8, 8) * 2 + 5, torch.randn(6, 3, 8, 8)
        for norm in (ours, plain):
            own = images.clone().requires_grad_()
            outputs = norm(own)
            results.append([outputs, *torch.autograd.grad((outputs * weights).sum(), [own, norm.weight, norm.bias])])
        for found, expected in zip(*results, strict=True):
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
        for found, expected in zip(ours.buffers(), plain.buffers(), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(
        ours.eval()(images),
        nn.functional.batch_norm(images, ours.running_mean, ours.running_var, ours.weight, ours.bias),
    )


def test_a_single_value_a_channel_is_refused():
    with pytest.raises(ValueError, match="needs more than 1 values a channel"):
        SynchronizedBatchNorm2d(3, ALONE)(torch.randn(1, 3, 1, 1))


def test_each_kind_becomes_its_class_and_hands_on_parameters_and_names():
    two = Processes(0, 2, torch.device("cpu"))
    expected = [
        ("frozen", two, FrozenBatchNorm2d),
        ("local", two, nn.BatchNorm2d),
        ("synchronized", two, SynchronizedBatchNorm2d),
        ("synchronized", Processes(0, 2, torch.device("cuda")), nn.SyncBatchNorm),
        ("synchronized", ALONE, nn.BatchNorm2d),
        ("synchronized", None, nn.BatchNorm2d),
    ]
    for kind, processes, made in expected:
        model = network()
        model[1].running_mean.fill_(3)
        before, state = dict(model.named_parameters()), model.state_dict()
        assert set_batch_norm(model, kind, processes) is model
        assert type(model[1]) is type(model[3][1]) is made
        assert (model[3][1].eps, model[3][1].momentum) == (1e-3, 0.3)
        after = dict(model.named_parameters())
        assert list(after) == list(before) and all(after[name] is before[name] for name in before)
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert isinstance(set_batch_norm(nn.BatchNorm2d(3), "frozen", None), FrozenBatchNorm2d)


def test_replacements_can_be_replaced_again():
    model = network()
    for kind, processes in (("synchronized", Processes(0, 2, torch.device("cuda"))), ("frozen", None), ("local", None)):
        set_batch_norm(model, kind, processes)
    assert type(model[1]) is nn.BatchNorm2d


def test_a_frozen_one_is_a_fixed_scale_and_shift_and_never_trains():
    model = set_batch_norm(network(), "frozen", None)
    for buffer in model.buffers():
        buffer.add_(1)
    model.train()
    norm = model[1]
    images = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    outputs = norm(images)
    assert torch.allclose(outputs, images * scale[:, None, None] + shift[:, None, None])
    outputs.sum().backward()
    assert torch.allclose(images.grad, scale[:, None, None].expand_as(images))
    assert norm.weight.grad is None and not norm.weight.requires_grad and not norm.bias.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert not norm.training and model.training


def test_the_order_of_memory_is_kept():
    norm = SynchronizedBatchNorm2d(4, ALONE)
    images = torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    outputs = norm(images)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.autograd.grad(outputs, images, torch.ones_like(outputs))[0]
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["synchronized", "frozen"])
def test_under_bf16_statistics_are_float32(kind):
    norm = SynchronizedBatchNorm2d(4, ALONE) if kind == "synchronized" else FrozenBatchNorm2d(4)
    conv = nn.Conv2d(3, 4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = conv(torch.randn(8, 3, 16, 16) + 100)
        assert hidden.dtype == torch.bfloat16
        outputs = norm(hidden)
    assert outputs.dtype == torch.bfloat16
    outputs.float().square().sum().backward()
    assert conv.weight.grad.dtype == torch.float32 and conv.weight.grad.isfinite().all()
    if kind == "synchronized":
        exact = hidden.detach().double()
        assert torch.allclose(norm.running_mean.double(), 0.1 * exact.mean(dim=(0, 2, 3)), rtol=1e-5)
        assert torch.allclose(norm.running_var.double(), 0.9 + 0.1 * exact.var(dim=(0, 2, 3)), rtol=1e-5)


def test_re_estimated_statistics_are_the_moments_of_all_batches_together():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).double()
    sizes = [(4, 3, 6, 6), (1, 3, 2, 9), (7, 3, 5, 3)]
    images = [number + torch.randn(size, dtype=torch.float64) for number, size in enumerate(sizes)]
    reestimate(model, run_batches(model, images), None)
    everything = torch.cat([batch.transpose(0, 1).flatten(1) for batch in images], dim=1)
    assert close(model[0].running_mean, everything.mean(dim=1))
    assert close(model[0].running_var, everything.var(dim=1, correction=0))
    # the second sees each batch normalized by its own statistics, not by what was learned so far
    assert torch.allclose(model[1].running_mean, torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(model[1].running_var, torch.ones(3).double(), atol=1e-4)


def test_re_estimation_leaves_frozen_and_unreached_layers_and_every_mode_as_they_were():
    model = nn.ModuleDict(
        {
            "frozen": set_batch_norm(nn.BatchNorm2d(3), "frozen", None),
            "unreached": nn.BatchNorm2d(3),
            "norm": nn.BatchNorm2d(3),
            "dropout": nn.Dropout(),
        }
    )
    model.train()
    model["dropout"].eval()
    seen = []

    def run() -> None:
        seen.append((model["dropout"].training, torch.is_grad_enabled()))
        model["norm"](model["frozen"](torch.randn(2, 3, 4, 4) + 5))

    reestimate(model, [run, run], None)
    assert seen == [(True, False)] * 2
    modes = {name: module.training for name, module in model.items()}
    assert modes == {"frozen": False, "unreached": True, "norm": True, "dropout": False}
    for name, mean in (("frozen", 0), ("unreached", 0), ("norm", 5)):
        assert model[name].running_mean.mean().item() == pytest.approx(mean, abs=1), name


def test_a_layer_used_twice_counts_each_call():
    norm = nn.BatchNorm2d(2).double()
    images = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64) + torch.tensor([0.0, 9.0])[:, None, None, None, None]

    def run() -> None:
        norm(images[0])
        norm(images[1])

    reestimate(norm, [run], None)
    assert close(norm.running_mean, images.mean(dim=(0, 1, 3, 4)))


def test_no_batch_gives_no_statistics():
    with pytest.raises(MocoError, match="no batch to estimate them from"):
        reestimate(nn.BatchNorm2d(3), [], None)
