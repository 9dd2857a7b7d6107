"""Training as a Slurm job that survives its driver, its time limit, preemption and lost nodes.

submitit submits and requeues; torchrun's engine starts the processes on each node. The job carries the run's
folder in its comment, so that whoever drives the run next finds the job instead of submitting a second one.
"""

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.cluster.machine import Slurm
from moco.errors import Interrupted, MocoError
from moco.runs.job import ERROR, error_left

LOGS = "slurm"
"""The folder in the run's folder that holds what submitit keeps of its jobs."""
POLL_SECONDS = 2.0
TURNS = 100_000
"""Time limits a job may reach; it gets one more turn each time."""
STOP_SECONDS = 60.0
"""Longest wait for the processes' checkpoint when a node is about to be taken away."""
PORTS = range(20000, 40000)
"""Where the processes of a job meet on its first node, by job number."""

_NEVER = frozenset(
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
_DONE = frozenset(
    ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"]
)


@dataclass(frozen=True)
class Job:
    """A job of this user's that Slurm has not done with.

    Attributes:
        id: its number.
        state: PENDING, RUNNING, …
        reason: why it waits.
    """

    id: str
    state: str
    reason: str


def find_job(folder: Path) -> Job | None:
    """The job that trains a run's folder, waiting or running; None where there is none.

    Raises:
        MocoError: a job was submitted for this folder once, and Slurm does not answer now.
    """
    if not (folder / LOGS).exists() or shutil.which("squeue") is None:
        return None
    listing = _slurm("squeue", "--noheader", "--me", f"--name={folder.name}", "--format=%A|%T|%r|%k")
    for line in listing.splitlines():
        number, state, reason, comment = line.strip().split("|", 3)
        if comment == str(folder) and state not in _DONE:
            return Job(number, state, reason)
    return None


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
            "machine.yaml: launcher = slurm, but there is no `sbatch` on this host; start from a login host of the"
            " cluster, or set launcher: local"
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
        teardown=_teardown(folder),
        additional_parameters=options,
        **{key: value for key, value in asked.items() if value},
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what sbatch says
            job = executor.submit(Training(str(folder), processes))
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        text = str(getattr(error, "stderr", None) or error)
        said = [line for line in text.splitlines() if line.startswith("sbatch: ")] or text.splitlines()
        raise MocoError(f"machine.yaml: Slurm refuses the job: {'; '.join(said)}; mend the section slurm") from None
    return str(job.job_id)


def follow(folder: Path, number: str) -> None:
    """Print what a job prints until Slurm has done with it.

    Raises:
        Interrupted: SIGINT or SIGTERM came here; the job is cancelled, after it has saved its state.
        MocoError: the job waits for what will never be; it is cancelled.
    """
    logs = _Logs(folder / LOGS, number)
    told = ""
    try:
        while (job := _state(number)) is not None:
            if job.state == "PENDING" and job.reason in _NEVER:
                subprocess.run(["scancel", number], check=False)
                raise MocoError(
                    f"machine.yaml: Slurm can never start job {number} as asked ({job.reason}); it is cancelled, mend the"
                    " section slurm"
                )
            now = f"{job.state} ({job.reason})" if job.state == "PENDING" else job.state
            if now != told:
                print(f"pretrain: job {number} is {now}", flush=True)
                told = now
            logs.show()
            time.sleep(POLL_SECONDS)
        logs.show()
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):
            _cancelled(folder, number).touch()
            subprocess.run(["scancel", number], check=False)
            deadline = time.monotonic() + STOP_SECONDS
            while _state(number) is not None and time.monotonic() < deadline:
                time.sleep(0.2)
        raise Interrupted(
            f"pretrain: job {number} is cancelled; the same command goes on from the last checkpoint"
        ) from None


def ending(number: str) -> str:
    """How a job ended, in Slurm's words, as far as it remembers."""
    shown = _slurm("scontrol", "show", "job", number, check=False)
    words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    return words.get("JobState", "gone from the queue")


class Training:
    """What submitit runs on every node of the job.

    Args:
        folder: the run's.
        processes: on each node.
    """

    def __init__(self, folder: str, processes: int) -> None:
        self.folder, self.processes = folder, processes

    def __call__(self) -> None:
        """Train until the end of the run, or of this process."""
        from moco.cluster.launch import run_agent

        folder, number = Path(self.folder), os.environ["SLURM_JOB_ID"]
        nodes = _slurm("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
        endpoint = f"{nodes[0]}:{PORTS[int(number) % len(PORTS)]}"
        try:
            run_agent(folder, self.processes, len(nodes), len(nodes), endpoint)
        except Interrupted as error:
            # A job that ends by itself while it is being preempted does not go back into the queue.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and not _cancelled(folder, number).exists():
                time.sleep(0.2)
            sys.exit(error.exit_code)
        except MocoError as error:
            if not error_left(folder):  # else the driver says it
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)

    def checkpoint(self) -> Any:
        """Called on the first node before the job loses its nodes: save, then go back into the queue.

        Stopping the processes of one node is enough: all of them save at the same step.
        """
        import psutil
        import submitit

        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # preemption sends it too; what has to be done is done here
        workers = psutil.Process().children()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        psutil.wait_procs(workers, timeout=STOP_SECONDS)
        return submitit.helpers.DelayedSubmission(self)


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


def _teardown(folder: Path) -> list[str]:
    """What the job's script does after the last process has ended: back into the queue, unless a reason was left.

    Slurm itself does so only where it has noticed that a node is down, not after a quick reboot.
    """
    over, logs = shlex.quote(str(folder / ERROR)), shlex.quote(str(folder / LOGS))
    return [
        "code=$?",
        f'if [ $code != 0 ] && [ ! -e {over} ] && [ ! -e {logs}/"$SLURM_JOB_ID"_cancelled ]; then',
        '  scontrol requeue "$SLURM_JOB_ID" && sleep 60',
        "fi",
        "exit $code",
    ]


def _cancelled(folder: Path, number: str) -> Path:
    """The file that tells a job's nodes that nobody wants it back in the queue."""
    return folder / LOGS / f"{number}_cancelled"


def _state(number: str) -> Job | None:
    listing = _slurm("squeue", "--noheader", f"--jobs={number}", "--format=%T|%r", check=False).strip()
    if not listing:
        return None
    state, reason = listing.splitlines()[0].split("|", 1)
    return Job(number, state, reason) if state not in _DONE else None


def _slurm(*command: str, check: bool = True) -> str:
    """The output of a Slurm command; a controller that is being restarted is waited for.

    Raises:
        MocoError: it does not answer for a minute.
    """
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        unreachable = "Unable to contact slurm controller" in done.stderr or "Connection refused" in done.stderr
        if done.returncode == 0 or not (check or unreachable):
            return done.stdout
        if not unreachable or time.monotonic() > deadline:
            said = done.stderr.strip().splitlines()
            raise MocoError(f"{command[0]}: {said[0] if said else 'failed'}; is Slurm up?")
        time.sleep(1)
