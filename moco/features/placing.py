"""Where features are while a device computes with them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Devices = Sequence[torch.device]
ON_CPU: Devices = (torch.device("cpu"),)
WORKSPACE = 2 * 2**30
"""Bytes of a GPU that computing with features needs at most beside the features themselves."""
UNDER_WAY = 16
"""Results that may wait on their devices: one for each GPU of the largest hosts."""


def placed(features: NDArray[np.float32], device: torch.device) -> Tensor:
    """Copy features to a GPU whose free memory holds them; else leave them where they are.

    ImageNet's training images have 10.5 GB of them (1.28 M x 2,048). What is left on the host, also
    memory-mapped, is sent to the device in the pieces that its user names.

    Args:
        features: float32, N x D.
        device: that computes.

    Returns:
        float32, N x D, on `device` or on the CPU.
    """
    rows = torch.from_numpy(features)
    if device.type != "cuda":
        return rows
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch gives it to the next
    return rows.to(device) if rows.nbytes + WORKSPACE <= torch.cuda.mem_get_info(device)[0] + kept else rows


def fetched(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """Copy results to the CPU in order; those of GPUs each as late as others are under way.

    Args:
        results: each made when it is asked for, on a device that may still compute it.
    """
    waiting: deque[Tensor] = deque()
    for result in results:
        waiting.append(result)
        while len(waiting) > (UNDER_WAY if result.is_cuda else 0):
            yield waiting.popleft().cpu()
    yield from (result.cpu() for result in waiting)
