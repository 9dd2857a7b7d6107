"""torchrun's engine, called from here: a run's processes on this host, alone or among others."""

import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from moco.cores import cores
from moco.errors import Interrupted, MocoError, first_line
from moco.runs.checkpoints import newest_step
from moco.runs.job import error_left

WORKER = "moco.worker"
RUN_ID = "moco"
MAX_RESTARTS = 1000
"""The worker itself ends a run that makes no progress; in weeks, many hosts may be lost."""

RENDEZVOUS = {
    "last_call_timeout": 5,
    "join_timeout": 600,
    "keep_alive_interval": 1,
    "keep_alive_max_attempt": 5,
    "read_timeout": 60,
}
"""Seconds. With torchrun's own values a lost host costs 40 s instead of 7; hosts have 10 minutes to
meet."""

ENVIRONMENT = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else torch's agents crash when a lost host comes back
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120",  # seconds for the last checkpoint
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # else a warning for every host that the DNS does not know
}

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Torch's agent has them raise an Exception, and leaves it so: what follows a run would take Ctrl-C
for a damaged file."""

SUPERVISED = "MOCO_SUPERVISED"
"""Set where a launcher reads the reason that a worker leaves, so that it need not print it too."""


def shell_line(folder: Path, processes: int, meeting: list[str], nnodes: str = "1") -> str:
    """Give the shell line that does the same as `run_agent` on a host that has only torch."""
    words = [
        "torchrun",
        f"--nnodes={nnodes}",
        f"--nproc-per-node={processes}",
        f"--max-restarts={MAX_RESTARTS}",
        "--monitor-interval=0.2",
        *meeting,
        *("-m", WORKER, str(folder)),
    ]
    return " ".join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), shlex.join(words)])


def run_agent(folder: Path, processes: int, fewest: int = 1, most: int = 1, endpoint: str | None = None) -> None:
    """Run this host's share of a run's processes, and wait for all hosts.

    Processes that fail are started again, on all hosts, from the newest checkpoint; a host that is
    lost or comes back likewise where the number of hosts is a range. SIGINT and SIGTERM are passed
    on, and waited for.

    Args:
        folder: the run's, with its job.
        processes: on this host.
        fewest: hosts that must meet.
        most: hosts that may take part.
        endpoint: HOST:PORT where they meet; None: this host is alone.

    Raises:
        Interrupted: the processes were told to stop, and did.
        MocoError: a process left a reason that no restart removes, or the hosts did not meet.
    """
    # Workers say in one line what failed; torch reads these when it is imported.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    os.environ.update(ENVIRONMENT)
    os.environ[SUPERVISED] = "1"
    # One thread a process, as torchrun sets it, would leave cores idle where there are fewer
    # processes than cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousTimeoutError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    scratch = tempfile.TemporaryDirectory(prefix="moco-")  # torch would leave one behind for each start
    config = LaunchConfig(
        min_nodes=fewest,
        max_nodes=most,
        nproc_per_node=processes,
        run_id=RUN_ID,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint or "localhost:0",
        rdzv_configs=dict(RENDEZVOUS),
        max_restarts=MAX_RESTARTS,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(log_dir=scratch.name),
        local_addr=None if endpoint else "127.0.0.1",  # a host alone need not know its own name
    )
    ended = threading.Event()
    threading.Thread(target=_stop_on_error, args=(folder, ended), daemon=True).start()

    def stopped() -> Interrupted:
        return Interrupted(f"{folder.name}: stopped; the same command resumes from step {newest_step(folder)}")

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        elastic_launch(config, sys.executable)("-u", "-m", WORKER, str(folder))
    except (SignalException, KeyboardInterrupt):
        raise _reason(folder) or stopped() from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == Interrupted.exit_code:
            raise _reason(folder) or stopped() from None
        raise _reason(folder) or MocoError(
            f"{folder.name}: process {rank} ended with exit code {failure.exitcode}; its reason is above, and the same"
            " command resumes from the last checkpoint"
        ) from None
    except RendezvousTimeoutError:
        raise MocoError(
            f"machine.yaml: launcher.rendezvous = {endpoint}: {fewest} host(s) did not meet there within"
            f" {RENDEZVOUS['join_timeout']} s; start the same command on each host"
        ) from None
    except socket.gaierror as error:
        raise MocoError(
            f"{socket.gethostname()}: this host does not know its own name ({error.strerror}); put it into the DNS or"
            " /etc/hosts with an address that the other hosts reach"
        ) from None
    except (RendezvousError, DistError) as error:
        raise _reason(folder) or MocoError(
            f"machine.yaml: launcher.rendezvous = {endpoint} cannot be reached, or no more ({first_line(error)}); name one"
            " of the hosts, with a free port that all of them can reach; the same command resumes from the last checkpoint"
        ) from None
    finally:
        ended.set()
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        scratch.cleanup()


def _reason(folder: Path) -> MocoError | None:
    text = error_left(folder)
    return MocoError(text) if text else None


def _stop_on_error(folder: Path, ended: threading.Event) -> None:
    """Stop the agent, which would restart the processes, once one of them has left a reason."""
    while not ended.wait(0.2):
        if error_left(folder):
            time.sleep(0.5)  # let the others leave by themselves
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            return
