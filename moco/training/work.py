"""A pretraining job carried out in this process and its peers."""

from dataclasses import replace
from pathlib import Path

from moco.cluster.machine import load_machine
from moco.processes import joined
from moco.runs.job import read_job
from moco.training.loop import pretrain
from moco.training.run import Run


def work(folder: Path) -> None:
    """Train the run of a folder; errors as in `moco.training.loop.pretrain`."""
    job, machine = read_job(folder), load_machine()
    run = replace(Run.of(job.settings, job.shards, folder.parent, machine), folder=folder)
    with joined(machine.training_device, machine.step_timeout_seconds) as processes:
        pretrain(run, processes)
