"""Where fetch, shard, embed and the search for duplicates are computed, past this host."""

from collections.abc import Generator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from moco.cluster.pieces import Pieces, do
from moco.errors import MocoError, first_line
from moco.settings import Settings

WAITING = 10_000
"""Pieces that are handed to Dask's scheduler at once, which keeps a kilobyte of each."""
SECONDS_TO_CONNECT = 30


class Processes(Settings):
    """This host alone, with all its cores."""

    kind: Literal["processes"] = "processes"


class Dask(Settings):
    """The workers of a running Dask cluster, wherever its scheduler has them."""

    kind: Literal["dask"]
    scheduler: str = Field(
        min_length=1, description="Address of its scheduler, tcp://HOST:PORT, or a file that `dask scheduler` wrote."
    )

    def run(self, pieces: Pieces) -> Generator[int]:
        """As in `moco.cluster.pieces.Engine`; pieces of a lost worker go to another one."""
        try:
            from distributed import Client, KilledWorker, as_completed
        except ImportError:
            raise MocoError(
                "machine.yaml: engine.kind = dask, but Dask is not installed; pip install 'moco-pipeline[scale]', here and"
                " where the workers run"
            ) from None
        place = {"scheduler_file": self.scheduler} if Path(self.scheduler).is_file() else {"address": self.scheduler}
        try:
            client = Client(**place, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise MocoError(
                f"machine.yaml: engine.scheduler = {self.scheduler}: no Dask scheduler answers ({first_line(error)}); start"
                " one with `dask scheduler`, or correct the address"
            ) from None
        mark, numbers = uuid4().hex, iter(range(pieces.count))
        work = partial(do, pieces.folder)
        running = as_completed(loop=client.loop)
        ours: dict[Any, int] = {}
        with client:
            if not client.scheduler_info()["workers"]:
                print(f"{self.scheduler}: waiting for workers; `dask worker {self.scheduler}` starts one", flush=True)
            try:
                while True:
                    while len(ours) < WAITING and (number := next(numbers, None)) is not None:
                        future = client.submit(work, number, key=f"moco-{mark}-{number}", pure=False)
                        ours[future] = number
                        running.add(future)
                    if not ours:
                        return
                    future = next(running)
                    number = ours.pop(future)
                    # The result is on the disk; from a worker that is lost just now it never comes.
                    if not pieces.finished({number}):
                        future.result()
                    yield number
            except CancelledError:
                raise MocoError(
                    f"{self.scheduler}: somebody cancelled the work, or the scheduler ended; the same command continues"
                ) from None
            except KilledWorker as error:
                raise MocoError(
                    f"Dask gave up a piece: each worker that took it was lost ({first_line(error)}), probably for lack of"
                    " memory; give workers more, and run the same command again"
                ) from None
            finally:
                client.cancel(list(ours), force=True)
