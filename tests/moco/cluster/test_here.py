"""What a run says at its start about this machine."""

import pytest
import torch

from moco.cluster import here
from moco.cluster.machine import Machine
from moco.processes import Processes

GROUPS = "the 4 groups of pretrain.bn_group_size = 16 images"


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
    found = here.idle(Machine(**machine), GROUPS)
    assert found is None if said is None else found and found.startswith(said)


def test_the_start_says_device_precision_backend_and_loader():
    cpu = torch.device("cpu")
    said = here.used(Machine(num_workers=3), Processes(0, 2, cpu), "bf16", compiled=True)
    assert said.startswith("each process on CPU of ")
    for part in ("gloo", "bfloat16", "compiled", "3 loader process(es) each"):
        assert part in said
    assert "alone, float32, 3" in here.used(Machine(num_workers=3), Processes(0, 1, cpu), "fp32", compiled=False)
