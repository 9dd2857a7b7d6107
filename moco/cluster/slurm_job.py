"""What a Slurm job does on its nodes: train, save before they are taken away, requeue."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from moco.errors import Interrupted, MocoError
from moco.runs.job import ERROR, error_left

LOGS = "slurm"
"""The folder in the run's folder that holds what submitit keeps of its jobs."""
STOP_SECONDS = 60.0
"""Longest wait for the processes' checkpoint when a node is about to be taken away."""
PORTS = range(20000, 40000)
"""Where the processes of a job meet on its first node, by job number."""


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
        from moco.cluster.agent import run_agent

        folder, number = Path(self.folder), os.environ["SLURM_JOB_ID"]
        nodes = ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
        endpoint = f"{nodes[0]}:{PORTS[int(number) % len(PORTS)]}"
        try:
            run_agent(folder, self.processes, len(nodes), len(nodes), endpoint)
        except Interrupted as error:
            # A job that ends by itself while it is being preempted does not go back into the queue.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and not cancelled(folder, number).exists():
                time.sleep(0.2)
            sys.exit(error.exit_code)
        except MocoError as error:
            if not error_left(folder):  # else the driver says it
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)

    def checkpoint(self) -> Any:
        """Save on the first node before the job loses its nodes, then requeue.

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


def teardown(folder: Path) -> list[str]:
    """Give the script lines that requeue the job at its end, unless a reason was left.

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


def cancelled(folder: Path, number: str) -> Path:
    """Give the file that tells a job's nodes that nobody wants it back in the queue."""
    return folder / LOGS / f"{number}_cancelled"


def ask(*command: str, check: bool = True) -> str:
    """Give the output of a Slurm command; a controller that is being restarted is waited for.

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
