"""Pieces as a Slurm job array, which needs no connection between its jobs or to the driver.

Each job does its share, every so manyth piece. One that is preempted or loses its node returns to
the queue and skips what is done; what the array leaves undone, at its time limit or because jobs
were killed, the next array does.
"""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal

from pydantic import Field

from moco.cluster.pieces import Pieces
from moco.cluster.slurm import DONE, NEVER
from moco.cluster.slurm_job import STOP_SECONDS, ask
from moco.errors import MocoError
from moco.settings import Settings

POLL_SECONDS = 1.0
FRUITLESS = 2
"""Arrays in a row that may end without a new piece; a shared disk shows some files late."""
LOGS = "slurm"


class SlurmArray(Settings):
    """A Slurm job array. Anything else sbatch knows goes into `options`."""

    kind: Literal["slurm"]
    tasks: int = Field(ge=1, le=1_000_000, description="Jobs of the array; each takes an equal share of the pieces.")
    cpus_per_task: int = Field(
        1, ge=1, le=1024, description="CPU cores of each: as many processes, or as many threads where pieces use them."
    )
    gpus_per_task: int = Field(0, ge=0, le=1024, description="GPUs of each, which `moco embed` computes on.")
    minutes: int = Field(ge=1, le=1_000_000, description="Time limit of each; what is left then, the next array does.")
    partition: str | None = Field(None, description="Partition; null: Slurm's default.")
    options: dict[str, str | int | bool] = Field(
        {}, description="Further options of sbatch by their long names: account, qos, mem, constraint, …"
    )
    setup: list[str] = Field([], description="Shell lines that each job runs first: module load …")

    def run(self, pieces: Pieces) -> Generator[int]:
        """As in `moco.cluster.pieces.Engine`; a driver that comes back replaces its array."""
        if shutil.which("sbatch") is None:
            raise MocoError(
                "machine.yaml: engine.kind = slurm, but there is no `sbatch` on this host; start from a login host of the"
                " cluster, or set engine: {kind: processes}"
            )
        of_earlier_driver = _jobs(f"--name={pieces.name}", comment=str(pieces.folder.parent))
        _cancel({number for number, _, _ in of_earlier_driver})
        left, fruitless = set(range(pieces.count)), 0
        while left:
            before = len(left)
            for number in self._array(pieces, frozenset(left)):
                left.remove(number)
                yield number
            fruitless = fruitless + 1 if len(left) == before else 0
            if fruitless == FRUITLESS:
                raise MocoError(
                    f"{pieces.name}: {len(left)} of {pieces.count} pieces are not done, and the last {FRUITLESS} job arrays"
                    f" finished none; their output is in {pieces.folder.parent / LOGS}, and engine.minutes ="
                    f" {self.minutes} may be too short"
                )

    def _array(self, pieces: Pieces, left: frozenset[int]) -> Generator[int]:
        """Submit one array, and follow it to its end, or that of the pieces."""
        waiting, job = set(left), self._submit(pieces)
        print(f"{pieces.name}: job array {job}, {self.tasks} jobs", flush=True)
        try:
            while waiting:
                jobs = _jobs(f"--jobs={job}", check=False)  # first: what they finish is seen below
                for number in pieces.finished(waiting):
                    waiting.remove(number)
                    yield number
                if failure := pieces.failure():
                    raise MocoError(failure)
                if never := next((why for _, state, why in jobs if state == "PENDING" and why in NEVER), None):
                    raise MocoError(
                        f"machine.yaml: Slurm can never start job {job} as asked ({never}); it is cancelled, correct the"
                        " section engine"
                    )
                if not jobs:
                    return
                time.sleep(POLL_SECONDS)
        finally:
            _cancel({job})

    def _submit(self, pieces: Pieces) -> str:
        processes, threads = (1, self.cpus_per_task) if pieces.threaded else (self.cpus_per_task, 1)
        share = [f"--ntasks={processes}", f"--cpus-per-task={threads}"]
        asked = {
            "job-name": pieces.name,
            "comment": str(pieces.folder.parent),
            "array": f"0-{self.tasks - 1}",
            "nodes": 1,
            "time": self.minutes,
            "output": str(_log_folder(pieces) / "%A_%a.log"),
            "requeue": True,
            "partition": self.partition or False,
            "gpus-per-task": self.gpus_per_task if pieces.threaded and self.gpus_per_task else False,
            **{name.replace("_", "-"): value for name, value in self.options.items()},
        }
        given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in asked.items() if value is not False]  # fmt: skip
        command = ["srun", *share, sys.executable, "-m", "moco.cluster.pieces", str(pieces.folder)]
        script = "\n".join(["#!/bin/bash", f"export MOCO_CORES={threads}", *self.setup, f"exec {shlex.join(command)}"])
        done = subprocess.run(
            ["sbatch", "--parsable", *share, *given], input=script, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MocoError(
                f"machine.yaml: Slurm refuses the job: {'; '.join(done.stderr.strip().splitlines())}; correct the section"
                " engine"
            )
        return done.stdout.strip().split(";")[0]


def _log_folder(pieces: Pieces) -> Path:
    folder = pieces.folder.parent / LOGS
    folder.mkdir(exist_ok=True)
    return folder


def _jobs(which: str, comment: str | None = None, check: bool = True) -> list[tuple[str, str, str]]:
    """List this user's jobs that have not ended: number of the array, state and why it waits."""
    listing = ask("squeue", "--noheader", "--me", which, "--format=%F|%T|%r|%k", check=check)
    jobs = [line.strip().split("|", 3) for line in listing.splitlines() if line.count("|") >= 3]
    return [(job, state, why) for job, state, why, said in jobs if state not in DONE and comment in (None, said)]


def _cancel(jobs: set[str]) -> None:
    """End arrays, and wait until nothing of them runs."""
    deadline = time.monotonic() + STOP_SECONDS
    for job in sorted(jobs):
        if _jobs(f"--jobs={job}", check=False):
            subprocess.run(["scancel", job], check=False)
        while _jobs(f"--jobs={job}", check=False) and time.monotonic() < deadline:
            time.sleep(0.2)
