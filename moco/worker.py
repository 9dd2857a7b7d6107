"""One of the processes that train a run: `torchrun … -m moco.worker FOLDER`.

It needs the library alone: no Prefect, DVC or MLflow. Everything about the run is in its folder
(job.yaml for pretraining, transfer.yaml for fine-tuning), everything about the host in
machine.yaml.
"""

import argparse
import errno
import os
import sys
import time
from importlib import import_module
from pathlib import Path

from moco.cluster.agent import SUPERVISED
from moco.ending import end_process
from moco.errors import Interrupted, MocoError, first_line, os_error_in_one_line
from moco.files import read_note, write_json
from moco.progress import print_any_text
from moco.runs.checkpoints import newest_step
from moco.runs.job import error_left, leave_error
from moco.text import printable

JOBS = {"job.yaml": "moco.training.work", "transfer.yaml": "moco.transfer.trial"}
"""The file that orders each kind of run -> the module whose `work(folder)` carries it out."""

LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE)
"""What the operating system refuses again at the next try."""
PATIENCE = 3
"""Restarts in a row from the same checkpoint after which the cause is taken to be the run
itself."""


def main() -> None:
    """Train, with errors as one line on stderr and an exit code that is not 0."""
    print_any_text()
    parser = argparse.ArgumentParser(prog="python -m moco.worker", description=__doc__)
    parser.add_argument("folder", type=Path, help="the run's folder, as `moco pretrain` or `moco launch` made it")
    folder = parser.parse_args().folder
    restarts = sum(int(os.environ.get(name, 0)) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    if restarts and error_left(folder):
        sys.exit(MocoError.exit_code)  # torchrun starts failed processes again; this one would fail again
    try:
        refuse_endless_restarts(folder, restarts)
        train(folder)
    except Interrupted as error:
        if os.environ.get("RANK", "0") == "0":
            print(error, flush=True)
        end_process(error.exit_code)
    except KeyboardInterrupt:
        end_process(Interrupted.exit_code)
    except RuntimeError as error:
        if not lost_a_peer(error):
            raise
        time.sleep(0.5)
        if not error_left(folder):  # else the peer has said itself why
            print(f"{folder.name}: a peer is gone or silent ({first_line(error):.200})", file=sys.stderr, flush=True)
        os._exit(1)  # leaving the group in order would wait for the peer
    except (MocoError, OSError) as error:
        if isinstance(error, OSError):
            if error.errno not in LASTING:
                raise
            error = MocoError(os_error_in_one_line(error))
        if not leave_error(folder, error) or SUPERVISED not in os.environ:
            print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            sys.stdout.flush()
            os._exit(error.exit_code)  # as above: peers may wait within a collective of NCCL
        sys.exit(error.exit_code)


def lost_a_peer(error: RuntimeError) -> bool:
    """Whether a collective failed, which is the peers' doing, and no mistake of this process."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def refuse_endless_restarts(folder: Path, restarts: int) -> None:
    """Stop a run that fails again and again without reaching another checkpoint.

    Args:
        folder: the run's.
        restarts: how often torchrun and Slurm have started the processes again by themselves.

    Raises:
        MocoError: the last `PATIENCE` starts began at the same step.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    path = folder / f"starts.{os.uname().nodename}.json"
    began = read_note(path).get("began", []) if restarts else []
    began = [*began, newest_step(folder)][-PATIENCE - 1 :]
    write_json(path, {"began": began})
    if len(began) > PATIENCE and len(set(began)) == 1:
        raise MocoError(
            f"{folder}: failed {PATIENCE} times after step {began[0]} without reaching another checkpoint; the reason is"
            " printed above"
        )


def train(folder: Path) -> None:
    """Train a folder's run in this process and its peers, from the newest checkpoint to the end.

    Raises:
        MocoError: as of the loop, or the folder holds no job that is known.
        Interrupted: told to stop; a checkpoint is saved.
    """
    for job, module in JOBS.items():
        if (folder / job).exists():
            import_module(module).work(folder)
            return
    raise MocoError(f"{folder}: holds no job ({', '.join(JOBS)}); `moco pretrain` or `moco launch` writes one")


if __name__ == "__main__":
    main()
