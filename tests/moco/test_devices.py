"""Devices: what computes, that nothing falls back in silence, and what children may see."""

import os
from pathlib import Path

import pytest
import torch

from moco import devices
from moco.errors import MocoError


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A host with GPUs; torch can use some."""

    def make(files: int, usable: int) -> None:
        for number in range(files):
            (tmp_path / f"nvidia{number}").touch()
        (tmp_path / "nvidiactl").touch()
        monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: max(files, usable))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize(
    ("device", "files", "usable", "found"), [("auto", 4, 4, 4), ("cuda", 4, 4, 4), ("cpu", 4, 4, 0), ("auto", 0, 0, 0)]
)
def test_every_gpu_computes_unless_machine_yaml_says_otherwise(host, device, files, usable, found):
    host(files, usable)
    assert devices.gpus(device) == found
    expected = [torch.device("cuda", index) for index in range(found)] or [torch.device("cpu")]
    assert devices.compute_devices(device) == expected


@pytest.mark.parametrize(
    ("device", "files", "said"),
    [("auto", 8, r"device = auto.* has 8 GPU\(s\), and torch .* can use none"), ("cuda", 0, r"device = cuda.* no GPU")],
)
def test_gpus_that_torch_cannot_use_are_no_reason_to_compute_elsewhere(host, device, files, said):
    host(files, 0)
    with pytest.raises(MocoError, match=said + r".*set device: cpu") as error:
        devices.gpus(device)
    assert "\n" not in str(error.value)


def test_gpus_that_somebody_has_hidden_are_left_alone(host, monkeypatch):
    host(8, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.gpus("auto") == 0


def test_gpus_that_this_user_may_not_open_are_left_alone(host, monkeypatch):
    host(8, 0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert devices.gpus("auto") == 0


@pytest.mark.parametrize(
    ("parent", "given"),
    [
        ({}, "1,3"),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, "5,7"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,GPU-c,GPU-d"}, "GPU-b,GPU-d"),
    ],
)
def test_a_child_sees_gpus_of_its_parents_alone(parent, given):
    assert devices.visible(range(1, 4, 2), parent) == given


def test_precision_is_what_was_asked_for_and_auto_is_what_the_processor_has(monkeypatch):
    cpu = torch.device("cpu")
    for asked in ("fp32", "tf32", "bf16"):
        assert devices.compute_in(asked, cpu) == asked
    for has, chosen in (({"avx512_bf16": True}, "bf16"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert devices.compute_in("auto", cpu) == chosen


@pytest.mark.parametrize(("precision", "told"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_float32_on_a_gpu_is_float32_unless_tf32_is_asked_for(precision, told):
    operations = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [operation.fp32_precision for operation in operations]
    try:
        devices.compute_in(precision, torch.device("cuda"))
        assert [operation.fp32_precision for operation in operations] == [told, told]
        with devices.full_precision():
            assert [operation.fp32_precision for operation in operations] == ["ieee", "ieee"]
        assert [operation.fp32_precision for operation in operations] == [told, told]
    finally:
        for operation, value in zip(operations, before, strict=True):
            operation.fp32_precision = value
