"""machine.yaml: how this machine does the work; no result depends on it, DVC does not track it."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from moco.cluster.engines import Dask, Processes
from moco.cluster.keep import Keep
from moco.cluster.kubernetes import Kubernetes
from moco.cluster.launcher import Found, Launcher
from moco.cluster.local import Local
from moco.cluster.pieces import Engine
from moco.cluster.slurm import Slurm
from moco.cluster.slurm_array import SlurmArray
from moco.cluster.torchrun import Torchrun
from moco.cores import cores
from moco.devices import gpus
from moco.settings import Settings, validate
from moco.yaml_files import read_yaml

AnyLauncher = Annotated[Local | Torchrun | Slurm, Field(discriminator="kind")]
AnyEngine = Annotated[Processes | SlurmArray | Dask, Field(discriminator="kind")]
LAUNCHERS: tuple[type[Launcher], ...] = get_args(get_args(AnyLauncher)[0])


class Machine(Settings):
    """How to run here. Every key may be left out, and so may the file."""

    moved: ClassVar[dict[str, str]] = {
        "launcher": "launcher.kind",
        "nnodes": "launcher.nnodes",
        "rendezvous": "launcher.rendezvous",
        "slurm": "launcher, beside kind: slurm",
    }

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto: CUDA if there is one.")
    processes: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Training processes on this machine; null: one a GPU, or one a CPU core as far as the batch-norm"
        " groups can be shared out equally.",
    )
    num_workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Loader processes for each training process; null: its share of the cores, less one.",
    )
    checkpoint_every_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Steps between checkpoints; null: by time only."
    )
    checkpoint_every_minutes: float = Field(2.0, gt=0, le=100_000, description="Minutes between checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, le=100_000, description="Newest checkpoints that are kept.")
    max_batch_per_process: int | None = Field(
        None,
        ge=2,
        le=1_048_576,
        description="Images that fit into a process's memory at once; its share of a step is taken in parts of this size, to the same result. null: its whole share.",
    )
    views: Literal["cpu", "gpu", "auto"] = Field(
        "cpu",
        description="What decodes images and paints their views; gpu: for machines whose cores cannot feed their GPUs; auto: by a"
        " short measurement at the start.",
    )
    compile: Literal["off", "on", "auto"] = Field(
        "off",
        description="Let torch compile the encoders, which takes minutes; auto: on a GPU, for runs long enough. No result changes"
        " but by rounding.",
    )
    gradients: Literal["fp32", "bf16"] = Field(
        "fp32", description="What gradients travel in between processes; bf16: half the traffic, rounded to 8 bits."
    )
    keep: Keep = Field(Keep(), description="What `moco prune` leaves.")
    shards_from: str | None = Field(
        None,
        min_length=1,
        description="Where the tars are, if not in data/shards: dvc (the default DVC remote), http(s)://…, s3://BUCKET/PREFIX, a folder,"
        " or pipe:COMMAND that prints the tar named {shard}, which needs pretrain.stream.",
    )
    shards_cache_gb: float = Field(
        0.0,
        ge=0,
        le=1_000_000,
        description="GB (10^9 bytes) of tars of shards_from that are kept on this host's disk, in runs/tars, where images are read"
        " in the exact order (pretrain.stream: null).",
    )
    step_timeout_seconds: float = Field(
        40.0,
        gt=0,
        le=86_400,
        description="How long a process waits for a silent peer within a step before it gives it up.",
    )
    launcher: AnyLauncher = Field(
        Local(), description="How processes are started: {kind: local}, {kind: torchrun, …} or {kind: slurm, …}."
    )
    engine: AnyEngine = Field(
        Processes(),
        description="Who does the pieces of fetch, shard, embed and duplicates: {kind: processes} of this host, {kind: slurm, …} or"
        " {kind: dask, …}.",
    )
    kubernetes: Kubernetes | None = Field(
        None, description="What `moco launch --render kubernetes` writes into its manifest."
    )

    @model_validator(mode="after")
    def _a_pipe_names_the_tar(self) -> "Machine":
        if self.shards_from and self.shards_from.startswith("pipe:") and "{shard}" not in self.shards_from:
            raise ValueError(
                f"shards_from = {self.shards_from!r} does not say where the tar's name goes; put {{shard}} there"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_used(self) -> "Machine":
        if self.device == "cpu" and self.launcher.gpus():
            raise ValueError(
                "device = cpu, but the launcher asks for GPUs; set launcher.gpus_per_node: 0, or device: auto"
            )
        return self

    @property
    def elsewhere(self) -> Engine | None:
        """Who does pieces of work on other hosts; None: this host does all."""
        return None if isinstance(self.engine, Processes) else self.engine

    def training_processes(self, groups: int) -> int:
        """How many processes train on a host.

        On a CPU several processes of few threads are steadier than one of many: its threads wait
        for each other hundreds of times a step, which any other load on the machine draws out.

        Args:
            groups: batch-norm groups of a global batch; one process holds each of them whole.
        """
        if self.processes is not None:
            return self.processes
        if decided := self.launcher.processes():
            return decided
        groups //= self.launcher.hosts()[1]
        return max(
            count for count in range(1, (gpus(self.training_device) or cores()) + 1) if max(1, groups) % count == 0
        )

    @property
    def training_device(self) -> Literal["auto", "cpu", "cuda"]:
        """Where training computes: on what the launcher asks for, else as `device` says."""
        asked = self.launcher.gpus()
        if asked is None or self.device != "auto":
            return self.device
        return "cuda" if asked else "cpu"

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
    return validate(read_yaml(path, may_be_empty=True), str(path), Machine) if Path(path).exists() else Machine()


def find(folder: Path) -> tuple[type[Launcher], Found] | None:
    """Find what trains a run's folder already, by whichever launcher it was started."""
    for launcher in LAUNCHERS:
        if found := launcher.find(folder):
            return launcher, found
    return None
