"""What a run says at its start about this machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from moco.cluster.machine import Machine
from moco.config import load_params
from moco.processes import Processes
from moco.training import here

PRETRAIN = load_params(Path(__file__).parents[3] / "params.yaml").pretrain


def run(**machine):
    settings = PRETRAIN.model_copy(update={"global_batch": 64, "bn_group_size": 16})  # four groups
    return SimpleNamespace(settings=settings, machine=Machine(**machine))


@pytest.mark.parametrize(
    ("gpus", "local", "machine", "said"),
    [
        (4, 4, {}, None),
        (6, 4, {}, "2 of 6 GPUs of this host stay idle: the 4 groups of pretrain.bn_group_size = 16 images cannot"),
        (8, 2, {"processes": 2}, "6 of 8 GPUs of this host stay idle: processes = 2 in machine.yaml"),
        (0, 4, {}, None),  # 8 cores
        (0, 3, {"processes": 3}, "2 of 8 cores of this host stay idle: processes = 3"),
    ],
)
def test_what_stays_idle_is_said_with_its_reason(monkeypatch, gpus, local, machine, said):
    monkeypatch.setattr(here, "gpus", lambda device: gpus)
    monkeypatch.setattr(here, "cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    found = here.idle(run(**machine))
    assert found is None if said is None else found and found.startswith(said)


def test_the_start_says_device_precision_backend_and_loader():
    cpu = torch.device("cpu")
    said = here.used(run(num_workers=3), Processes(0, 2, cpu), "bf16", compiled=True)
    assert said.startswith("each process on CPU of ")
    for part in ("gloo", "bfloat16", "compiled", "3 loader process(es) each"):
        assert part in said
    assert "alone, float32, 3" in here.used(run(num_workers=3), Processes(0, 1, cpu), "fp32", compiled=False)
