"""Batch norm in groups beside the plain way to write it, a part of `python -m benchmarks.step`."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, Side, interleaved
from moco.encoders.batch_norm import GroupBatchNorm2d

SHAPES = ((64, 64, 32), (64, 256, 16), (128, 512, 8))
"""N, C, H = W: of ResNets at 64 pixels."""
GROUPS = 8
TABLE = f"Batch norm in {GROUPS} groups, forward and backward"


class Loop(nn.Module):
    """Split, one norm a group, and join."""

    def __init__(self, channels: int, group_size: int) -> None:
        super().__init__()
        self.norm, self.group_size = nn.BatchNorm2d(channels), group_size

    def forward(self, images: Tensor) -> Tensor:
        """Normalize N x C x H x W, group by group."""
        return torch.cat([self.norm(part) for part in images.split(self.group_size)])


def rows(device: torch.device, rounds: int) -> list[Row]:
    """Measure every shape in the layout of training, channels-last."""
    found = []
    for N, C, side in SHAPES:
        images = torch.randn(N, C, side, side, device=device).contiguous(memory_format=torch.channels_last)
        images.requires_grad_()
        gradient = torch.randn_like(images)
        norms = {
            "ours": GroupBatchNorm2d(C, N // GROUPS),
            "a loop over groups": Loop(C, N // GROUPS),
            "one group, nn.BatchNorm2d": nn.BatchNorm2d(C),
        }
        sides: dict[str, Side] = {
            name: partial(_passes, norm.to(device), images, gradient) for name, norm in norms.items()
        }
        costs = interleaved(sides, rounds, 2)
        own, name = costs.pop("ours"), f"{N} x {C} x {side} x {side}"
        found += [
            Row(TABLE, name, "ms", 1e3 * own.wall, peer, 1e3 * cost.wall, 1e3 * own.cpu, 1e3 * cost.cpu)
            for peer, cost in costs.items()
        ]
    return found


def _passes(norm: nn.Module, images: Tensor, gradient: Tensor, times: int = 5) -> int:
    for _ in range(times):
        norm(images).backward(gradient)
    images.grad = None
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return times
