"""What works in a project, and what `dvc repro` would run."""

import argparse
from pathlib import Path


def plan(options: argparse.Namespace) -> None:
    """Say what would run."""
    from pipelines.plan import lines
    from pipelines.plan import plan as planned

    print("\n".join(lines(planned(Path.cwd()))))


def status(options: argparse.Namespace) -> None:
    """Say what works."""
    from moco.advice.status import status as standing
    from pipelines.stage import runs_folder

    print("\n".join(standing(runs_folder())))
