"""A small pretraining run as a person would start it, on hosts of a test bed."""

import os
import sys
from pathlib import Path

import yaml
from sandbox import wait_until

from moco.runs.curves import read_rows

PRETRAIN = [sys.executable, "-m", "pipelines.pretrain"]
ENVIRONMENT = {**os.environ, "MOCO_TRACKING": "off", "OMP_NUM_THREADS": "1"}


def project_of(folder: Path, small_project: Path, epochs: int, **machine: object) -> Path:
    """A project's folder: the small project's shards, a machine.yaml, epochs of ten steps."""
    (folder / "data").mkdir(parents=True)
    (folder / "data/shards").symlink_to(small_project / "data/shards")
    params = yaml.safe_load((small_project / "params.yaml").read_text())
    params["pretrain"] |= {"bn_group_size": 6, "epochs": epochs, "knn_every_epochs": 5}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "machine.yaml").write_text(yaml.safe_dump({"num_workers": 0, **machine}))
    return folder


def rows(project: Path) -> list[dict[str, str]]:
    """The rows of the run's curve so far."""
    curves = list(project.glob("runs/pretrain-*/curves.csv"))
    return read_rows(curves[0]) if curves else []


def wait_for_step(project: Path, step: int, timeout: float = 120) -> None:
    """Wait until the run has written this step."""
    wait_until(lambda: bool(last := rows(project)) and int(last[-1]["step"]) >= step, timeout, f"step {step}")


def losses(project: Path) -> list[float]:
    """The loss of every step, once each and in order."""
    found = rows(project)
    assert [int(row["step"]) for row in found] == list(range(1, len(found) + 1))
    return [float(row["loss"]) for row in found]


def starts(log: Path) -> list[tuple[int, int]]:
    """(first step, number of processes) of each time training began, as the run printed it."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("pretrain: step ")]
    return [(int(line.split()[2]), int(line.split(" on ")[1].split()[0])) for line in lines]
