"""Where a process computes: the GPUs that it sees, or the CPU."""

import torch

from moco.errors import MocoError


def compute_devices(setting: str) -> list[torch.device]:
    """List the devices that one process may use, all visible GPUs or the CPU.

    Args:
        setting: `device` of machine.yaml: "auto" (CUDA where it is), "cpu" or "cuda".

    Raises:
        MocoError: CUDA is asked for and cannot be used.
    """
    usable = setting != "cpu" and torch.cuda.is_available()
    if setting == "cuda" and not usable:
        raise MocoError(
            "machine.yaml: device = cuda, but torch finds no GPU that it can use; see `nvidia-smi`, or set `device: cpu`"
        )
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] if usable else []
    return gpus or [torch.device("cpu")]
