"""A run that was declared dead while its machine was away, and continues.

A machine that sleeps sends no heartbeat, so flows/crashed.yaml makes the run Crashed when it wakes
up, though every process of it trains on.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running

SECONDS = 30.0
"""Between two looks: as often as a run sends a sign of life."""
MESSAGE = "It runs: its machine was away for a while."


@contextlib.contextmanager
def reclaimed() -> Iterator[None]:
    """Make this flow run Running again, for as long as the block runs, whenever it is Crashed.

    Who else works in the project's folder is decided by its lock and not by this state.
    """
    run, done = UUID(str(flow_run.get_id())), threading.Event()
    # In this context, which holds the server's address: else a client starts a server of its own.
    work = partial(copy_context().run, _watch, run, done, get_run_logger().warning)
    watch = threading.Thread(target=work, daemon=True)
    watch.start()
    yield
    done.set()
    watch.join()
    _reclaim(run)  # a state that ends a run takes no other end


def _watch(run: UUID, done: threading.Event, say: Callable[[str], None]) -> None:
    while not done.wait(SECONDS):
        if _reclaim(run):
            say(MESSAGE)


def _reclaim(run: UUID) -> bool:
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:  # the server may be away
        state = client.read_flow_run(run).state
        if state is not None and state.is_crashed():
            client.set_flow_run_state(run, Running(message=MESSAGE), force=True)
            return True
    return False
