"""One function decides where a process computes."""

import pytest
import torch

from moco.devices import compute_devices
from moco.errors import MocoError

CPU = torch.device("cpu")


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("cpu", [CPU])] + [(setting, [torch.device("cuda", n) for n in range(3)]) for setting in ("auto", "cuda")],
)
def test_all_gpus_are_used_unless_the_cpu_is_asked_for(three_gpus, setting, expected):
    assert compute_devices(setting) == expected


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_devices("auto") == [CPU]
    with pytest.raises(MocoError, match=r"machine.yaml: device = cuda, but .* `device: cpu`"):
        compute_devices("cuda")
