"""Starting the processes of a training run on this machine: torchrun's engine, called from here."""

import os
import sys

from moco.cluster.machine import cores
from moco.errors import Interrupted, MocoError


def launched() -> bool:
    """Whether this is one of the processes that torchrun started."""
    return "WORLD_SIZE" in os.environ


def run_on_this_machine(module: str, arguments: list[str], processes: int) -> None:
    """Run `python -m MODULE ARGUMENTS` in so many processes and wait for all of them.

    SIGINT and SIGTERM are passed on, and waited for.

    Raises:
        Interrupted: the processes were told to stop, and did.
        MocoError: one of them failed; it has printed its reason.
    """
    # The failing process has said it in one line; torchrun reads this when it is imported.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # One thread a process, as torchrun sets it, would leave cores idle where there are fewer processes than cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="moco", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.2,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except SignalException:
        raise Interrupted("pretrain: stopped; the same command goes on from the last checkpoint") from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == Interrupted.exit_code:
            raise Interrupted(
                "pretrain: stopped; the same command goes on from the last checkpoint"
            ) from None
        raise MocoError(
            f"pretrain: process {rank} of {processes} ended with exit code {failure.exitcode}; its reason is above,"
            " and the same command goes on from the last checkpoint"
        ) from None
