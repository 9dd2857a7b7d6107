"""machine.yaml: what this machine should do with the work, which no result depends on and DVC does not track."""

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from moco.cluster.kubernetes import Kubernetes
from moco.cores import cores
from moco.settings import Settings, read_yaml, validate


class Slurm(Settings):
    """The job to ask Slurm for. Anything else sbatch knows goes into `options`."""

    nodes: int = Field(1, ge=1, description="Nodes.")
    gpus_per_node: int = Field(0, ge=0, description="GPUs of each node, one process each; 0: train on CPUs.")
    cpus_per_node: int | None = Field(None, ge=1, description="CPU cores of each node; null: Slurm's default.")
    minutes: int = Field(
        ge=2, description="Time limit of one turn; at its end the job saves, goes back into the queue and goes on."
    )
    partition: str | None = Field(None, description="Partition; null: Slurm's default.")
    seconds_to_save: int = Field(90, ge=1, description="How long before the time limit the job saves its state.")
    options: dict[str, str | int | bool] = Field(
        {}, description="Further options of sbatch by their long names: account, qos, mem, constraint, …"
    )
    setup: list[str] = Field([], description="Shell lines that the job runs first: module load …")

    @model_validator(mode="after")
    def _time_to_save_fits(self) -> "Slurm":
        if self.seconds_to_save >= 60 * self.minutes:
            raise ValueError(f"seconds_to_save = {self.seconds_to_save} leaves nothing of minutes = {self.minutes}")
        return self


class Machine(Settings):
    """How to run here. Every key may be left out, and so may the file."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto: CUDA if there is one.")
    processes: int | None = Field(
        None,
        ge=1,
        description="Training processes on this machine; null: one a GPU, or one a CPU core as far as the batch-norm"
        " groups can be shared out equally.",
    )
    num_workers: int | None = Field(
        None, ge=0, description="Loader processes for each training process; null: its share of the cores, less one."
    )
    checkpoint_every_steps: int | None = Field(None, ge=1, description="Steps between checkpoints; null: by time only.")
    checkpoint_every_minutes: float = Field(2.0, gt=0, description="Minutes between checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints that are kept.")
    max_batch_per_process: int | None = Field(
        None,
        ge=2,
        description="Images that fit into a process's memory at once; its share of a step is taken in parts of so many, to the same result. null: its whole share.",
    )
    shards_from: str | None = Field(
        None,
        min_length=1,
        description="Where the tars are, if not in data/shards: http(s)://…, s3://BUCKET/PREFIX, a folder, or pipe:COMMAND that"
        " prints the tar named {shard}. Needs pretrain.stream.",
    )
    step_timeout_seconds: float = Field(
        40.0, gt=0, description="How long a process waits for a silent peer within a step before it gives it up."
    )
    launcher: Literal["local", "torchrun", "slurm"] = Field(
        "local",
        description="local: this machine alone. torchrun: several hosts that meet at `rendezvous`; start the same command on each. slurm: a Slurm job.",
    )
    nnodes: str = Field(
        "1",
        pattern=r"^[1-9][0-9]*(:[1-9][0-9]*)?$",
        coerce_numbers_to_str=True,
        description="torchrun: number of hosts, or FEWEST:MOST where hosts may come and go.",
    )
    rendezvous: str | None = Field(
        None,
        pattern=r"^[^\s:]+:[0-9]+$",
        description="torchrun: HOST:PORT of one of the hosts, by a name that all of them can reach.",
    )
    slurm: Slurm | None = Field(None, description="slurm: the job to ask for.")
    kubernetes: Kubernetes | None = Field(
        None, description="What `moco launch --render kubernetes` writes into its manifest."
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Machine":
        if self.launcher == "torchrun" and self.rendezvous is None:
            raise ValueError("launcher: torchrun needs rendezvous: HOST:PORT")
        if self.launcher == "slurm" and self.slurm is None:
            raise ValueError("launcher: slurm needs a section slurm (nodes, minutes, …)")
        if self.shards_from and self.shards_from.startswith("pipe:") and "{shard}" not in self.shards_from:
            raise ValueError(
                f"shards_from = {self.shards_from!r} does not say where the tar's name goes; put {{shard}} there"
            )
        fewest, most = self.hosts()
        if fewest > most:
            raise ValueError(f"nnodes = {self.nnodes}: the fewest are more than the most")
        return self

    def hosts(self) -> tuple[int, int]:
        """Fewest and most hosts that train together."""
        if self.launcher == "slurm" and self.slurm:
            return self.slurm.nodes, self.slurm.nodes
        if self.launcher == "local":
            return 1, 1
        fewest, _, most = self.nnodes.partition(":")
        return int(fewest), int(most or fewest)

    def training_processes(self, groups: int) -> int:
        """How many processes train on a host.

        On a CPU several processes of few threads are steadier than one of many: its threads wait for each
        other hundreds of times a step, which any other load on the machine draws out.

        Args:
            groups: batch-norm groups of a global batch, each of which one process holds whole.
        """
        if self.processes is not None:
            return self.processes
        if self.launcher == "slurm" and self.slurm:
            return self.slurm.gpus_per_node or 1
        groups //= self.hosts()[1]
        gpus = torch.cuda.device_count() if self.device != "cpu" else 0
        return max(count for count in range(1, (gpus or cores()) + 1) if max(1, groups) % count == 0)

    def workers(self) -> int:
        """Loader processes for each training process."""
        if self.num_workers is not None:
            return self.num_workers
        return max(1, min(16, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def load_machine(path: Path | str = "machine.yaml") -> Machine:
    """Read machine.yaml; the defaults where there is no such file.

    Raises:
        MocoError: an unknown key or a value out of range; one line.
    """
    return validate(read_yaml(path), str(path), Machine) if Path(path).exists() else Machine()
