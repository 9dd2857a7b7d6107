"""The processes that train together, as torchrun starts them."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from moco.devices import gpus
from moco.errors import MocoError

PATIENCE = timedelta(minutes=30)
"""For start-up, evaluation and saving, where one process may keep the others waiting."""


@dataclass(frozen=True)
class Processes:
    """This process among its peers.

    Within a step all processes work alike, so a peer that does not answer soon is lost; while one
    of them starts up, evaluates or saves, the others wait. Hence two process groups with time-outs
    of their own.

    Attributes:
        rank: 0 … world_size - 1.
        world_size: number of processes.
        device: where this one computes.
        in_step: the group for the collectives of a step, soon out of patience; None: the default
            group.
        on_host: a gloo group, also of little patience, for what must not wait for the GPU; None:
            the default group.
    """

    rank: int
    world_size: int
    device: torch.device
    in_step: dist.ProcessGroup | None = None
    on_host: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def mean_(self, values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
        """Average a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values, group=group)
            values /= self.world_size
        return values

    def gather(self, rows: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
        """Concatenate every process's rows (equally many) in rank order; gradients flow back."""
        if self.world_size == 1:
            return rows
        if rows.requires_grad:
            gathered: Tensor = _Gather.apply(rows, self, group)
            return gathered
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's small Python value, in rank order."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """`Processes.gather` whose rows take gradient: the sum of what all processes found for them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes, group: dist.ProcessGroup | None) -> Tensor:
        ctx.rows, ctx.rank, ctx.group = len(rows), processes.rank, group
        return processes.gather(rows.detach(), group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows], None, None


def join(device: str = "auto", step_timeout_seconds: float = 40.0) -> Processes:
    """Join the process group that torchrun's environment describes; alone where there is none.

    Args:
        device: "auto" (CUDA where it is), "cpu" or "cuda".
        step_timeout_seconds: after which a collective of a step gives a silent peer up.

    Raises:
        MocoError: CUDA is asked for and there is none, or fewer GPUs than processes.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), gpus(device)
    if count and local_rank >= count:
        raise MocoError(
            f"machine.yaml: process {local_rank} of this machine has no GPU ({count} found);"
            " lower `processes`, or set `device: cpu`"
        )
    chosen = torch.device("cuda", local_rank) if count else torch.device("cpu")
    if count:
        torch.cuda.set_device(chosen)
    if world_size == 1:
        return Processes(rank, world_size, chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if count else "gloo", timeout=PATIENCE, device_id=chosen if count else None)
    soon = timedelta(seconds=step_timeout_seconds)
    return Processes(
        rank,
        world_size,
        chosen,
        in_step=dist.new_group(timeout=soon),  # type: ignore[arg-type]
        on_host=dist.new_group(timeout=soon, backend="gloo"),  # type: ignore[arg-type]
    )


@contextmanager
def joined(device: str = "auto", step_timeout_seconds: float = 40.0) -> Iterator[Processes]:
    """Join the process group while the context lasts, and leave it together at its end.

    After an error the group is not left: NCCL would wait there for peers that wait themselves. The
    process is about to end, which the peers notice.

    Args:
        device: as of `join`.
        step_timeout_seconds: as of `join`.

    Raises:
        MocoError: as of `join`.
    """
    processes = join(device, step_timeout_seconds)
    yield processes
    processes.barrier()
    leave()


def leave() -> None:
    """Leave the process group, if one was joined; its peers do so too."""
    if dist.is_initialized():
        dist.destroy_process_group()


def keep_freed_memory() -> None:
    """Let this process and its children keep the memory of freed tensors, under glibc.

    Every step frees and needs the same amounts. Handing them back to the system, which clears them,
    takes about a twentieth of a step on a CPU.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            library.mallopt(parameter, 2**30)
