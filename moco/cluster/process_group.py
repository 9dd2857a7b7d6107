"""The processes that train together, as torchrun starts them."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moco.errors import MocoError


@dataclass(frozen=True)
class Processes:
    """This process among its peers.

    Attributes:
        rank: 0 … world_size - 1.
        world_size: number of processes.
        device: where this one computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def mean_(self, values: Tensor) -> Tensor:
        """Average a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate every process's rows (as many on each) in rank order."""
        if self.world_size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            dist.barrier()


def join(device: str = "auto") -> Processes:
    """Join the process group that torchrun's environment describes; alone where there is none.

    Args:
        device: "auto" (CUDA where it is), "cpu" or "cuda".

    Raises:
        MocoError: CUDA is asked for and there is none, or fewer GPUs than processes.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and local_rank >= torch.cuda.device_count():
        raise MocoError(
            f"machine.yaml: process {local_rank} of this machine has no GPU ({torch.cuda.device_count()} found);"
            " lower `processes`, or set `device: cpu`"
        )
    chosen = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", device_id=chosen if cuda else None)
    return Processes(rank, world_size, chosen)


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def average_running_statistics(model: nn.Module, processes: Processes) -> None:
    """Average batch-norm running statistics over the processes, before evaluating or saving."""
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if processes.world_size > 1 and statistics:
        flat = processes.mean_(torch.cat([buffer.flatten() for buffer in statistics]))
        for buffer, values in zip(statistics, flat.split([b.numel() for b in statistics]), strict=True):
            buffer.copy_(values.view_as(buffer))
