"""What the processes of a run decide together: whether to stop, whether to save."""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from moco.processes import Processes

LEAVE_SECONDS = 5.0
"""How long a process may take no notice of a lost peer before it ends."""


class Agreement:
    """Wishes of single processes that all of them follow at the same step.

    Each step's wishes travel while the next step computes, so that neither a GPU nor a peer is
    waited for; they are followed one step late. A process alone follows its own at once.

    A thread waits for them. Where a peer is lost, the main thread may hang for good in a GPU's full
    queue of work, which no time-out reaches; the thread then ends the process.

    Args:
        processes: this process and its peers.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._traveling: tuple[Tensor, Future[None]] | None = None
        self._works: queue.SimpleQueue[tuple[dist.Work, Future[None]]] = queue.SimpleQueue()
        self._noticed = threading.Event()
        if processes.world_size > 1:
            threading.Thread(target=self._wait_for_works, daemon=True).start()

    def exchange(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """State this process's wishes after a step, and learn what all follow now.

        Raises:
            RuntimeError: a peer is gone or silent.
        """
        if self.processes.world_size == 1:
            return stop, save
        agreed = self.settle()
        wishes = torch.tensor([stop, save], dtype=torch.int32)
        work = dist.all_reduce(wishes, dist.ReduceOp.MAX, group=self.processes.on_host, async_op=True)
        arrived: Future[None] = Future()
        self._traveling = wishes, arrived
        self._works.put((work, arrived))
        return agreed

    def settle(self) -> tuple[bool, bool]:
        """Wait for the wishes under way; to be called before the last exchange is left behind."""
        if self._traveling is None:
            return False, False
        wishes, arrived = self._traveling
        self._traveling = None
        if error := arrived.exception():
            self._noticed.set()
            raise error
        stop, save = wishes.tolist()
        return bool(stop), bool(save)

    def _wait_for_works(self) -> None:
        while True:
            work, arrived = self._works.get()
            try:
                work.wait()
                arrived.set_result(None)
            except Exception as error:
                arrived.set_exception(error)
                if not self._noticed.wait(LEAVE_SECONDS):
                    print(
                        "a peer is gone or silent, and this process hangs in a collective", file=sys.stderr, flush=True
                    )
                    os._exit(1)
                return


WAIT_SECONDS = 2.0
"""How long a process that shall stop still waits for a batch."""


class WaitedInVainError(Exception):
    """This process shall stop, and waits for what does not come."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Slurm announces the end of a job's time, and preemption, to all its processes by SIGUSR2."""


class StopRequests:
    """Tell whether this process shall stop: by one of `SIGNALS`, or as its parent has ended."""

    def __init__(self) -> None:
        self._told, self._since, self._waits = threading.Event(), 0.0, False
        self._reminder: threading.Timer | None = None
        # torchrun's agent, killed, cannot pass anything on; without it nobody would ever end this
        # process.
        self._agent = os.getppid() if "WORLD_SIZE" in os.environ else None

    def __call__(self) -> bool:
        """Tell whether this process shall stop."""
        return self._told.is_set() or self._agent not in (None, os.getppid())

    def tell(self, *_: object) -> None:
        """Ask to stop; a signal handler.

        Raises:
            WaitedInVainError: within `waiting`, some seconds after the first request.
        """
        if not self._told.is_set():
            self._since = time.monotonic()
            self._told.set()
            if self._waits:
                self._remind()
        elif self._waits and time.monotonic() - self._since >= WAIT_SECONDS / 2:
            raise WaitedInVainError

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for what may never come, such as images of a server that is away."""
        self._waits = True
        if self._told.is_set():
            self._remind()
        try:
            yield
        finally:
            self._waits = False
            if self._reminder is not None:
                self._reminder.cancel()
                self._reminder = None

    def _remind(self) -> None:
        self._reminder = threading.Timer(WAIT_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
        self._reminder.daemon = True
        self._reminder.start()


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Catch the signals that ask to stop while the context lasts."""
    stop = StopRequests()
    previous = {number: signal.signal(number, stop.tell) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
