"""Encoded images in the exact order, of tars that are elsewhere: each by a request for its bytes.

The order mixes all tars, so that an image's tar is any. Requests for the next steps are under way
while a step is made, and whole tars come into a bounded cache on this host's disk meanwhile: with a
cache for a share of the set, that share of the images is read here.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.errors import MocoError
from moco.images.http_parts import RefusedError
from moco.images.index import ShardSet, sample_key
from moco.images.plan import EpochPlan
from moco.images.stream import HEADER, LATER, PAUSES, is_of
from moco.images.tar_cache import TarCache
from moco.images.tar_source import PASSING, Source

THREADS = 16
"""Requests under way at once for each loader process: at 20 ms each, 800 images a second."""
AHEAD = 2
"""Steps whose images are asked for ahead of their use."""

Call = tuple[int, int, int]


@dataclass
class ExactReads:
    """The encoded images of a plan's steps. Safe to pickle and to fork.

    Attributes:
        images: the shard set; only its index needs to be here.
        plan: the order.
        location: of the tars, as in `Source`: web servers, S3, a folder, or a list of addresses.
        cache: keeps whole tars here; None: none is kept.
    """

    images: ShardSet
    plan: EpochPlan
    location: str
    cache: TarCache | None = None
    _process: int = 0

    def read(self, step: int, first: int, last: int) -> list[bytes]:
        """Read the encoded images of rows first to last - 1 of a step's global batch.

        Raises:
            MocoError: a tar is missing, not the indexed one, or out of reach for a minute.
        """
        if self._process != os.getpid():
            self._process, self._source = os.getpid(), Source(self.images, self.location)
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="moco-read")
            self._asked: dict[Call, list[Future[bytes]]] = {}
            self._stop = threading.Event()
            if self.cache:
                self.cache.fill(self.images, self._source)
        wanted = [(number, first, last) for number in range(step, step + 1 + AHEAD)]
        for call in [call for call in self._asked if call not in wanted]:
            for future in self._asked.pop(call):
                future.cancel()
        for call in wanted:
            if call not in self._asked:
                numbers = self.plan.batch(call[0])[first:last].tolist()
                self._asked[call] = [self._pool.submit(self._image, number) for number in numbers]
        try:
            return [future.result() for future in self._asked.pop(wanted[0])]
        except BaseException:
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._process = 0
            raise

    def _image(self, number: int) -> bytes:
        entry = self.images.entries[number]
        shard, offset, size = self.images.shards[int(entry["shard"])], int(entry["offset"]), int(entry["size"])
        key = sample_key(int(entry["key"]))
        failures = 0
        while True:
            try:
                data = self._part(shard, offset - HEADER, offset + size)
                break
            except (OSError, EOFError) as error:
                pauses = PAUSES + LATER if self._source.answered else PAUSES
                self._give_up_or_wait(shard, error, failures, pauses)
                failures += 1
        self._source.answered = True
        if not is_of(data[:HEADER], key, size):
            name = self._source.name(shard)
            raise MocoError(
                f"{name}: is not the tar that was indexed ({key} is not at its place); upload data/shards again"
            )
        return data[HEADER:]

    def _part(self, shard: str, first: int, last: int) -> bytes:
        if self.cache and (data := self.cache.part(shard, first, last)) is not None:
            return data
        return self._source.part(shard, first, last)

    def _give_up_or_wait(self, shard: str, error: OSError | EOFError, failures: int, pauses: tuple[float, ...]) -> None:
        name, reason = self._source.name(shard), getattr(error, "strerror", None) or str(error)
        refused = isinstance(error, RefusedError) and error.status < 500 and str(error.status) not in PASSING
        if refused or self._source.refuses(error, None, ""):
            raise MocoError(
                f"{name}: {reason}; check machine.yaml's shards_from, and that all of data/shards is there"
            ) from None
        if failures == len(pauses):
            raise MocoError(
                f"{name}: {reason}, {failures + 1} times in a row; once it can be read, the same command resumes from the"
                " last checkpoint"
            ) from None
        if not self._source.reported:
            self._source.reported = True
            print(f"pretrain: {name}: {reason}; it is asked again", flush=True)
        if self._stop.wait(pauses[failures]):
            raise error

    def __getstate__(self) -> dict[str, Any]:
        return {"images": self.images, "plan": self.plan, "location": self.location, "cache": self.cache, "_process": 0}


def cache_for(images: ShardSet, runs: Path, gigabytes: float) -> TarCache | None:
    """Make the cache of a shard set in the folder of untracked state; None where it has no room."""
    return TarCache(runs / "tars" / images.data_hash[:16], int(gigabytes * 1e9)) if gigabytes else None
