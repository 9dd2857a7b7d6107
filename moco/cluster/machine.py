"""machine.yaml: what this machine should do with the work, which no result depends on and DVC does not track."""

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError

from moco.config import Settings, describe, read_yaml
from moco.errors import MocoError


class Machine(Settings):
    """How to run here. Every key may be left out, and so may the file."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto: CUDA if there is one."
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="Training processes on this machine; null: one a GPU, or one a CPU core as far as the batch-norm"
        " groups can be shared out equally.",
    )
    num_workers: int | None = Field(
        None,
        ge=0,
        description="Loader processes for each training process; null: its share of the cores, less one.",
    )
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Steps between checkpoints; null: by time only."
    )
    checkpoint_every_minutes: float = Field(5.0, gt=0, description="Minutes between checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints that are kept.")

    def training_processes(self, groups: int) -> int:
        """How many processes train here.

        On a CPU several processes of few threads are steadier than one of many: its threads wait for each
        other hundreds of times a step, which any other load on the machine draws out.

        Args:
            groups: batch-norm groups of a global batch, each of which one process holds whole.
        """
        if self.processes is not None:
            return self.processes
        gpus = torch.cuda.device_count() if self.device != "cpu" else 0
        return max(count for count in range(1, (gpus or cores()) + 1) if groups % count == 0)

    def workers(self) -> int:
        """Loader processes for each training process."""
        if self.num_workers is not None:
            return self.num_workers
        return max(1, min(16, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_machine(path: Path | str = "machine.yaml") -> Machine:
    """Read machine.yaml; the defaults where there is no such file.

    Raises:
        MocoError: an unknown key or a value out of range; one line.
    """
    if not Path(path).exists():
        return Machine()
    try:
        return Machine.model_validate(read_yaml(path))
    except ValidationError as error:
        raise MocoError(f"{path}: " + "; ".join(describe(item) for item in error.errors())) from None
