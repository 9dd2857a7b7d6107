"""A run's folder as a job that any process on any host can do: `python -m moco.worker FOLDER`."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from moco.config import Pretrain
from moco.errors import MocoError
from moco.files import write_text
from moco.settings import validate
from moco.yaml_files import dump_yaml, read_yaml

JOB, ERROR = "job.yaml", "error.json"


@dataclass(frozen=True)
class Job:
    """What to train, and on what.

    Attributes:
        settings: the pretrain section of params.yaml.
        shards: the shard set, as seen from the project's folder.
    """

    settings: Pretrain
    shards: str


def write_job(folder: Path, job: Job) -> None:
    """Leave the order in the run's folder; an error of an earlier start is forgotten."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"shards": job.shards, "pretrain": job.settings.model_dump(mode="json")}
    write_text(folder / JOB, dump_yaml(values))
    (folder / ERROR).unlink(missing_ok=True)


def read_job(folder: Path) -> Job:
    """Read the job that `write_job` left.

    Raises:
        MocoError: there is none, or it was changed by hand.
    """
    path = folder / JOB
    if not path.exists():
        raise MocoError(f"{path}: no such file; `moco pretrain` or `moco launch` in the project's folder writes it")
    values = read_yaml(path)
    try:
        return Job(validate(values["pretrain"], str(path), Pretrain), str(values["shards"]))
    except KeyError as error:
        raise MocoError(f"{path}: {error} is missing; delete it and start the run again") from None


def leave_error(folder: Path, error: MocoError) -> bool:
    """Tell whoever started the processes why another try is of no use; the first reason stays.

    Returns:
        Whether there is a reason in the folder now.
    """
    part = folder / f"{ERROR}.{os.uname().nodename}.{os.getpid()}"
    with contextlib.suppress(OSError):  # there is one already, or the disk is full
        part.write_text(json.dumps(str(error)), encoding="utf-8")
        try:
            os.link(part, folder / ERROR)
        except FileExistsError:
            raise
        except OSError:  # a file system without links; the last of several reasons then stays
            part.replace(folder / ERROR)
    part.unlink(missing_ok=True)
    return (folder / ERROR).exists()


def error_left(folder: Path) -> str | None:
    """Read the reason that a process left, if any."""
    try:
        return str(json.loads((folder / ERROR).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
