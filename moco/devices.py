"""Which devices compute here; no GPU is passed over in silence."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import torch

from moco.errors import MocoError, first_line

DEVICE_FILES = Path("/dev")
"""Where a GPU of this host, or of this container, shows as `nvidia0`, …"""


def gpus(device: str = "auto") -> int:
    """Count the GPUs that this process may compute on; 0: it computes on the CPU.

    Args:
        device: "auto" (CUDA where it is), "cpu" or "cuda".

    Raises:
        MocoError: CUDA is asked for and there is none, or there are GPUs that torch cannot use.
    """
    if device == "cpu":
        return 0
    if torch.cuda.is_available() and (count := torch.cuda.device_count()):
        return count
    idle = _gpus_of_host()
    if device == "cuda" or idle:
        found = f"{idle} GPU(s), and torch {torch.__version__} can use none" if idle else "no GPU"
        raise MocoError(
            f"machine.yaml: device = {device}, but this host has {found} ({_reason()}); install the build of torch for"
            " its driver, or set device: cpu"
        )
    return 0


def compute_devices(device: str = "auto") -> list[torch.device]:
    """List what this process may compute on: every visible GPU of the host, or else the CPU.

    Args:
        device: as of `gpus`.

    Raises:
        MocoError: as of `gpus`.
    """
    return [torch.device("cuda", index) for index in range(gpus(device))] or [torch.device("cpu")]


def visible(indices: range, environment: Mapping[str, str] = os.environ) -> str:
    """Name some of this process's GPUs for `CUDA_VISIBLE_DEVICES` of a child.

    Args:
        indices: counted among the GPUs that this process sees.
        environment: of this process; what its own variable names is all that a child may get.
    """
    names = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return ",".join(names[index] if names else str(index) for index in indices)


_OPERATIONS = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
Precision = Literal["fp32", "tf32", "bf16"]


def compute_in(precision: str, device: torch.device) -> Precision:
    """Choose what products and convolutions are computed in, and tell torch.

    Args:
        precision: "fp32": float32, strictly; "tf32": float32 whose factors a GPU rounds to 10 bits;
            "bf16": autocast to bfloat16; "auto": bf16 where the processor has it in hardware, else
            fp32.
        device: that computes.

    Returns:
        The choice; for bf16 the caller opens the autocast.
    """
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    for operation in _OPERATIONS:  # torch's own default is TF32 for convolutions alone
        operation.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    return cast(Precision, precision)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 convolutions and products on CUDA in float32, not in TF32, for a while."""
    before = [operation.fp32_precision for operation in _OPERATIONS]
    for operation in _OPERATIONS:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        for operation, precision in zip(_OPERATIONS, before, strict=True):
            operation.fp32_precision = precision


@contextmanager
def torchs_own_precision() -> Iterator[None]:
    """Leave convolutions as torch has them at its start, for a while.

    `torch.export` asks by an older name, which fails where they and recurrent layers differ.
    """
    convolutions = _OPERATIONS[0]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = torch.backends.cudnn.rnn.fp32_precision  # type: ignore[attr-defined]
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def has_bf16(device: torch.device) -> bool:
    """Tell whether a processor has bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def describe(device: torch.device) -> str:
    """Say which device this is, and a GPU's memory."""
    if device.type != "cuda":
        return "CPU"
    about = torch.cuda.get_device_properties(device)
    return f"{about.name} ({about.total_memory / 2**30:.0f} GiB)"


def _gpus_of_host() -> int:
    """Count the GPUs that nobody has hidden, whether or not torch can use them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:  # somebody has chosen, perhaps none
        return 0
    files = [path for path in DEVICE_FILES.glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal()]
    return sum(os.access(path, os.R_OK | os.W_OK) for path in files)


def _reason() -> str:
    if torch.version.cuda is None:
        return "this build of torch is for CPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error).rstrip(".")
    return "no device is visible to it"
