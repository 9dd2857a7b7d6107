"""What a run says at its start about this machine."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moco.cluster.machine import Machine
from moco.config import load_params
from moco.processes import Processes
from moco.training import here
from moco.training.setup import build

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


def test_both_sides_are_measured_and_compared():
    class Views:
        per_image, count, size = 2, 8, 16
        filled = 0

        def fill(self, step: int, rows: slice, batch: np.ndarray) -> None:
            assert batch.shape == (2, 8, 16, 16, 3)
            self.filled += rows.stop - rows.start

    views = Views()
    assert here.views_per_second(views, 0) > 0
    assert views.filled == 9
    model = build(PRETRAIN.model_copy(update={"encoder": "thin", "stem": "small", "bn_group_size": 2}), 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert here.trained_per_second(model.encoder_q, 4, 16, torch.autocast("cpu", enabled=False)) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert here.balance(99.6, 200).endswith(
        "100 images/s prepared, 200 images/s trained for each process; the loader is the slower side"
    )
    assert here.balance(200, 100).endswith("training is the slower side")
