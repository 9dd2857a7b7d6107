"""Training as a Slurm job that survives its driver, its time limit, preemption and lost nodes.

submitit submits and requeues; torchrun's engine starts the processes on each node. The job carries
the run's folder in its comment, so that the next driver of the run finds the job instead of
submitting a second one.
"""

import contextlib
import io
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from moco.cluster.launcher import Found, Launcher, Work
from moco.cluster.slurm_job import LOGS, STOP_SECONDS, Training, ask, cancelled, teardown
from moco.errors import Interrupted, MocoError
from moco.runs.job import error_left

POLL_SECONDS = 2.0
TURNS = 100_000
"""Time limits a job may reach; it gets one more turn each time."""

NEVER = frozenset(
    [
        "AccountNotAllowed",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionConfig",
        "PartitionTimeLimit",
        "QOSNotAllowed",
    ]
)
"""Reasons to wait that no waiting removes; sbatch accepts such jobs all the same."""
DONE = frozenset(
    ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"]
)


@dataclass(frozen=True)
class SlurmJob:
    """A job of this user's that has not ended.

    Attributes:
        id: its number.
        state: PENDING, RUNNING, …
        reason: why it waits.
    """

    id: str
    state: str
    reason: str


class Slurm(Launcher):
    """A Slurm job.

    `moco pretrain` submits and follows it. Anything else sbatch knows goes into `options`.
    """

    outlives_driver: ClassVar[bool] = True

    kind: Literal["slurm"]
    nodes: int = Field(1, ge=1, le=100_000, description="Nodes.")
    gpus_per_node: int = Field(0, ge=0, le=1024, description="GPUs of each node, one process each; 0: train on CPUs.")
    cpus_per_node: int | None = Field(
        None, ge=1, le=100_000, description="CPU cores of each node; null: Slurm's default."
    )
    minutes: int = Field(
        ge=2,
        le=1_000_000,
        description="Time limit of one turn; at its end the job saves, returns to the queue and resumes.",
    )
    partition: str | None = Field(None, description="Partition; null: Slurm's default.")
    seconds_to_save: int = Field(
        90, ge=1, le=86_400, description="How long before the time limit the job saves its state."
    )
    options: dict[str, str | int | bool] = Field(
        {}, description="Further options of sbatch by their long names: account, qos, mem, constraint, …"
    )
    setup: list[str] = Field([], description="Shell lines that the job runs first: module load …")

    @model_validator(mode="after")
    def _gpus_have_cores(self) -> "Slurm":
        if self.gpus() != 0 and self.cpus_per_node is None:
            raise ValueError(
                "GPUs need cpus_per_node: Slurm's default is one core, which feeds no GPU; set it to the cores of a node, or"
                " to your share of them"
            )
        return self

    @model_validator(mode="after")
    def _time_to_save_fits(self) -> "Slurm":
        if self.seconds_to_save >= 60 * self.minutes:
            raise ValueError(f"seconds_to_save = {self.seconds_to_save} leaves nothing of minutes = {self.minutes}")
        return self

    def hosts(self) -> tuple[int, int]:
        return self.nodes, self.nodes

    def processes(self) -> int:
        return self.gpus_per_node or 1

    def gpus(self) -> int | None:
        otherwise = any(name in self.options for name in ("gres", "gpus", "gpus_per_task"))
        return None if otherwise else self.gpus_per_node

    @staticmethod
    def find(folder: Path) -> Found | None:
        if not (folder / LOGS).exists() or shutil.which("squeue") is None:
            return None
        listing = ask("squeue", "--noheader", "--me", f"--name={folder.name}", "--format=%A|%T|%r|%k")
        for line in listing.splitlines():
            number, state, _, comment = line.strip().split("|", 3)
            if comment == str(folder) and state not in DONE:
                return Found(number, f"Slurm job {number} ({state})", f"scancel {number}")
        return None

    def run(self, work: Work, found: Found | None) -> None:
        if found:
            print(f"pretrain: following job {found.id}, which trains this run already", flush=True)
        elif work.done():
            return
        job = found or Found(submit(work.folder, self, work.processes), "", "")
        try:
            follow(work.folder, job.id)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                self.stop(work.folder, job)
            raise Interrupted(
                f"pretrain: job {job.id} is cancelled; the same command resumes from the last checkpoint"
            ) from None
        if not work.done():
            raise MocoError(
                error_left(work.folder)
                or f"Slurm job {job.id} ended ({ending(job.id)}) before the run did; its last lines are above, and"
                " the same command resumes from the last checkpoint"
            )

    def stop(self, folder: Path, found: Found) -> None:
        cancelled(folder, found.id).touch()
        subprocess.run(["scancel", found.id], check=False)
        deadline = time.monotonic() + STOP_SECONDS
        while _state(found.id) is not None and time.monotonic() < deadline:
            time.sleep(0.2)

    def line(self, folder: Path, processes: int) -> str:
        raise MocoError(
            "machine.yaml: launcher.kind = slurm submits a job by itself: `moco pretrain`;"
            " set launcher: {kind: torchrun, …} for lines"
        )


def submit(folder: Path, settings: Slurm, processes: int) -> str:
    """Submit the training of a run's folder.

    Args:
        folder: the run's, with its job, on a disk that all nodes share.
        settings: the job to ask for.
        processes: on each node.

    Returns:
        The job's number.

    Raises:
        MocoError: there is no Slurm here, or it refuses the request.
    """
    if shutil.which("sbatch") is None:
        raise MocoError(
            "machine.yaml: launcher.kind = slurm, but there is no `sbatch` on this host; start from a login host of the"
            " cluster, or set launcher: {kind: local}"
        )
    import submitit

    srun = [f"--cpus-per-task={settings.cpus_per_node}"] if settings.cpus_per_node else []
    options: dict[str, Any] = {"requeue": True, **settings.options}
    asked = {
        "cpus_per_task": settings.cpus_per_node,
        "gpus_per_node": settings.gpus_per_node or None,
        "partition": settings.partition,
    }
    executor = submitit.SlurmExecutor(folder / LOGS, max_num_timeout=TURNS)
    executor.update_parameters(
        job_name=folder.name,
        comment=str(folder),
        nodes=settings.nodes,
        ntasks_per_node=1,
        time=settings.minutes,
        signal_delay_s=settings.seconds_to_save,
        setup=["export TORCH_CPP_LOG_LEVEL=ERROR", *settings.setup],
        srun_args=srun,
        teardown=teardown(folder),
        additional_parameters=options,
        **{key: value for key, value in asked.items() if value},
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what sbatch says
            job = executor.submit(Training(str(folder), processes))
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        text = str(getattr(error, "stderr", None) or error)
        said = [line for line in text.splitlines() if line.startswith("sbatch: ")] or text.splitlines()
        raise MocoError(
            f"machine.yaml: Slurm refuses the job: {'; '.join(said)}; correct the section launcher"
        ) from None
    return str(job.job_id)


def follow(folder: Path, number: str) -> None:
    """Print what a job prints until Slurm has done with it.

    Raises:
        MocoError: the job waits for what will never be; it is cancelled.
    """
    logs = _Logs(folder / LOGS, number)
    told = ""
    while (job := _state(number)) is not None:
        if job.state == "PENDING" and job.reason in NEVER:
            subprocess.run(["scancel", number], check=False)
            raise MocoError(
                f"machine.yaml: Slurm can never start job {number} as asked ({job.reason}); it is cancelled, correct"
                " the section launcher"
            )
        now = f"{job.state} ({job.reason})" if job.state == "PENDING" else job.state
        if now != told:
            print(f"pretrain: job {number} is {now}", flush=True)
            told = now
        logs.show()
        time.sleep(POLL_SECONDS)
    logs.show()


def ending(number: str) -> str:
    """How a job ended, in Slurm's words, as far as it remembers."""
    shown = ask("scontrol", "show", "job", number, check=False)
    words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    return words.get("JobState", "gone from the queue")


class _Logs:
    """The new lines in the logs of a job's nodes, which are appended to from turn to turn."""

    def __init__(self, folder: Path, number: str) -> None:
        self.folder, self.number = folder, number
        self._read = {path: path.stat().st_size for path in self._paths()}  # of a job found again: what is new

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.number}_*_log.*"))

    def show(self) -> None:
        for path in self._paths():
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if line.strip() and not line.startswith(("submitit ", "srun: ", "slurmstepd")):
                    print(line, file=sys.stdout if path.suffix == ".out" else sys.stderr, flush=True)


def _state(number: str) -> SlurmJob | None:
    listing = ask("squeue", "--noheader", f"--jobs={number}", "--format=%T|%r", check=False).strip()
    if not listing:
        return None
    state, reason = listing.splitlines()[0].split("|", 1)
    return SlurmJob(number, state, reason) if state not in DONE else None
