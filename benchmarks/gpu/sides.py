"""Part 2: a GPU computes what a CPU does, whatever the mechanism, the parts and the precision."""

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from benchmarks.gpu.training import Training, views_of
from benchmarks.scaling_model import preset
from moco.config import Pretrain
from moco.dictionary.kinds import AnyKind
from moco.encoders.normalize import normalize

STEPS = 3
CPU = torch.device("cpu")
# Sums of powers of two, the same in float32, which they are on a GPU, as in float64.
MOMENTUM, LR_PER_256 = 1 - 2**-6, 2**-4
FOLLOWS = {"momentum": MOMENTUM, "momentum_schedule": "constant", "symmetric": False}
KINDS: dict[str, dict[str, Any]] = {
    "momentum-queue": {**FOLLOWS, "num_keys": 100},
    "memory-bank": {"momentum": MOMENTUM, "num_keys": 100},
    "end-to-end": {},
    "momentum-batch": {**FOLLOWS, "symmetric": True},
}

LIMITS: dict[str, dict[str, float]] = {
    "float64": dict.fromkeys(("loss", "gradients", "keys", "statistics", "weights"), 1e-9),
    "fp32": dict.fromkeys(("loss", "gradients", "keys", "statistics", "weights"), 1e-4),
    "bf16": {"loss": 0.02},
}


def small_case(kind: str, gpu: bool) -> Pretrain:
    """Give a small run of a mechanism."""
    update = {
        "image_size": 32 if gpu else 16,
        "global_batch": 64 if gpu else 8,
        "bn_group_size": 16 if gpu else 4,
        "dictionary": TypeAdapter(AnyKind).validate_python({"kind": kind, **KINDS[kind]}),
        "precision": "fp32",
        "schedule": "steps",
        "lr_per_256": LR_PER_256,
    }
    return preset("small").model_copy(update=update)


def parts_of(settings: Pretrain) -> list[int | None]:
    """Ways to take a step: whole, and where it can be divided, group by group."""
    return [None, settings.bn_group_size] if settings.dictionary.about.divisible else [None]


def smooth(training: Training) -> Training:
    """Replace each ReLU by a smooth function.

    Of thousands of activations one lies within the rounding of zero, and whether it passes alone
    moves the gradient by 1 %.
    """
    for module in list(training.model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    return training


def trained(training: Training, batches: list[Tensor]) -> dict[str, Tensor]:
    """Take a step on each batch, and give all that came out, on the CPU."""
    losses, gradients = [], []
    for views in batches:
        losses.append(training.step(views.to(training.processes.device)).loss)
        of_step = [x.grad.flatten() for x in training.model.encoder_q.parameters() if x.grad is not None]
        gradients.append(torch.cat(of_step))
    state = training.model.state_dict()
    keys = [value for name, value in state.items() if name in ("dictionary.keys", "dictionary.bank")]
    statistics = [value for name, value in state.items() if name.endswith(("running_mean", "running_var"))]
    counts = [value for name, value in state.items() if name.endswith(("pointer", "num_batches_tracked"))]
    weights = [value for name, value in training.model.named_parameters()]
    groups = {
        "loss": losses,
        "gradients": gradients,
        "keys": keys,
        "statistics": statistics,
        "weights": weights,
        "counts": counts,
    }
    return {
        name: torch.cat([x.detach().flatten().double().cpu() for x in found]) for name, found in groups.items() if found
    }


def distances(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Measure how far results are apart, relative to their length."""
    return {name: float((value - expected[name]).norm() / expected[name].norm()) for name, value in found.items()}


def sides(record: Record, chip: Chip, scratch: Path) -> None:
    """Take three steps on a CPU and on the device, and compare all that they leave."""
    for kind in KINDS:
        settings = small_case(kind, chip.gpu)
        batches = [views_of(settings, step) for step in range(STEPS)]
        exact = [torch.stack([normalize(view) for view in views]).double() for views in batches]
        for part in parts_of(settings):
            how = f"{kind}, {'whole' if part is None else 'in parts'}"
            expected = trained(smooth(Training(settings, CPU, torch.float64, torch.contiguous_format, part)), exact)
            for name, (dtype, precision) in {
                "float64": (torch.float64, "fp32"),
                "fp32": (torch.float32, "fp32"),
                "bf16": (torch.float32, "bf16"),
            }.items():
                chosen = settings.model_copy(update={"precision": precision})
                there = smooth(Training(chosen, chip.device, dtype, part=part))
                with chip.norms_at_once():
                    found = trained(there, exact if dtype == torch.float64 else batches)
                compare(record, f"{name}, {how}", found, expected, LIMITS[name])


def compare(
    record: Record, name: str, found: dict[str, Tensor], expected: dict[str, Tensor], limits: dict[str, float]
) -> None:
    """Check each result that has a limit; counts are equal whatever the precision."""
    apart = distances(found, expected)
    record.add(name, apart)
    far = [f"{what} {apart[what]:.1e}" for what in limits if what in apart and not apart[what] <= limits[what]]
    if apart["counts"] != 0:
        far.append("pointer or counts")
    if far:
        record.failed.append(f"{name}: {', '.join(far)}")
