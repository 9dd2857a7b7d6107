"""This host alone: one process here, or several under torchrun's engine."""

from pathlib import Path
from typing import Literal

from moco.cluster.agent import run_agent, shell_line
from moco.cluster.launcher import Found, Launcher, Work


class Local(Launcher):
    """This machine alone."""

    kind: Literal["local"] = "local"

    def run(self, work: Work, found: Found | None) -> None:
        if work.processes == 1:
            work.train()
        else:
            run_agent(work.folder, work.processes)

    def line(self, folder: Path, processes: int) -> str:
        return shell_line(folder, processes, ["--standalone"])
