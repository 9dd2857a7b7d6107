"""Run a stage, or print what runs its training elsewhere."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from moco.config import load_params
from moco.errors import MocoError
from pipelines import stage
from pipelines.driver import ends_with_driver

ARGUMENTS = ("begin_again", "restart", "as_in", "paths", "announce", "names", "purge")
"""Options that are arguments of what they run."""


def run_stage(options: argparse.Namespace) -> None:
    """Do the same as `python -m pipelines.STAGE`."""
    stage.drop_ranks_of_others()
    params = load_params(options.params, options.set)
    extra = {name: value for name, value in vars(options).items() if name in ARGUMENTS}
    with ends_with_driver():
        getattr(import_module(f"pipelines.{options.command}"), options.command)(params, **extra)


def launch(options: argparse.Namespace) -> None:
    """Print the line or the manifest; stdout holds nothing else."""
    from moco.cluster.kubernetes import train_job
    from moco.training.checks import check
    from pipelines.pretrain import leave_job, run_of

    run = run_of(load_params(options.params, options.set))
    machine, folder = run.machine, run.folder
    leave_job(run)
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # other hosts may have the project elsewhere
    if options.render == "kubernetes":
        if machine.kubernetes is None:
            raise MocoError(
                "machine.yaml: has no section kubernetes (image, volume_claim, …); docs/kubernetes.md shows one"
            )
        processes = machine.kubernetes.gpus_per_node or machine.processes or 1
        check(run.settings, len(run.images), machine.kubernetes.nodes * processes)
        print(train_job(machine.kubernetes, folder.name, str(folder), processes), end="")
        return
    line = machine.launcher.line(folder, run.processes_per_host)
    hosts = "on this host" if machine.launcher.hosts() == (1, 1) else "on every host"
    print(f"{hosts}, in the project's folder:", file=sys.stderr)
    print(line)
