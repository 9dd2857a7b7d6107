"""Encoded images of tars that are elsewhere, read forwards, each lane of the plan a window ahead.

The local index says at which byte an image begins: reading starts there, resumes at the same byte
after a broken connection, and notices tars that are not the indexed ones.
"""

import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from moco.errors import MocoError
from moco.images.index import ShardSet, sample_key
from moco.images.stream_plan import StreamPlan
from moco.images.tar_source import Source, Tar

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before the next try while no image comes; after the last one, reading fails."""
LATER = (60.0,) * 9
"""Further ones once images have come from there: ten minutes in all, for a server that restarts."""
HEADER = 512  # bytes before each file in a tar

Images = dict[int, bytes]


@dataclass
class TarStreams:
    """The encoded images of a plan's steps.

    Safe to pickle and to fork: threads and connections belong to the process that reads. Memory
    holds, for each lane read here, the rest of its window and what has arrived of the next.

    Attributes:
        images: the shard set; only its index needs to be here.
        plan: the order.
        location: of the tars, as in `Source`.
    """

    images: ShardSet
    plan: StreamPlan
    location: str | None = None
    _lanes: dict[int, "Lane"] = field(default_factory=dict, repr=False, compare=False)
    _process: int = field(default=0, repr=False, compare=False)

    def read(self, step: int, first: int, last: int) -> list[bytes]:
        """Read the encoded images of rows first to last - 1 of a step's global batch.

        Calls with rising steps and the same rows are read ahead for; any other call reads a window
        of each lane first.

        Raises:
            MocoError: a tar is missing, not the indexed one, or out of reach for a minute; for ten
                if images have come from there before.
        """
        if self._process != os.getpid():
            # Keep them from being closed here: that would wait for locks of the parent's threads.
            self._of_parent = self._lanes
            self._process, self._lanes, self._source = os.getpid(), {}, Source(self.images, self.location)
        epoch, rows = self.plan.epoch_of(step), self.plan.rows(step, first, last)
        for number, window, positions in rows:
            if number not in self._lanes:
                self._lanes[number] = Lane(self.images, self.plan, self._source, number)
            self._lanes[number].expect(epoch, window, positions.start)
        found = []
        for number, window, positions in rows:
            found += self._lanes[number].take(epoch, window, positions)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"images": self.images, "plan": self.plan, "location": self.location, "_lanes": {}, "_process": 0}


class Reading:
    """A window being read, by a thread that ends by itself, or soon after `stop` is set."""

    def __init__(self, lane: "Lane", epoch: int, window: int, since: int, before: "Reading | None") -> None:
        self.since = since
        """First position in the window's order whose image is read."""
        self.stop = Event()
        self.images: Future[Images] = Future()
        Thread(target=self._run, args=(lane, epoch, window, before), daemon=True).start()

    def _run(self, lane: "Lane", epoch: int, window: int, before: "Reading | None") -> None:
        try:
            if before is not None:
                before.images.exception()  # a lane reads one window after the other
            self.images.set_result(lane.fetch(epoch, window, self.since, self.stop))
        except BaseException as error:
            self.images.set_exception(error)


class Lane:
    """The windows of one lane."""

    def __init__(self, images: ShardSet, plan: StreamPlan, source: Source, number: int) -> None:
        self.images, self.plan, self.source, self.number = images, plan, source, number
        self._readings: dict[tuple[int, int], Reading] = {}
        self._newest: Reading | None = None
        self._open: tuple[int, Tar] | None = None  # shard and tar

    def expect(self, epoch: int, window: int, since: int) -> None:
        """Begin to read a window, unless it has begun."""
        reading = self._readings.get((epoch, window))
        if reading is None or reading.since > since:
            if reading is not None:
                reading.stop.set()
            self._newest = Reading(self, epoch, window, since, self._newest)
            self._readings[epoch, window] = self._newest

    def take(self, epoch: int, window: int, positions: slice) -> list[bytes]:
        """Hand over the images at some positions of a window's order, and begin the next window."""
        now, ahead = (epoch, window), self.plan.next_window(epoch, self.number, window)
        for other in [key for key in self._readings if key not in (now, ahead)]:
            self._readings.pop(other).stop.set()
        numbers = self.plan.window_order(epoch, self.number, window)[positions].tolist()
        self.expect(*now, positions.start)
        images = self._readings[now].images.result()
        if not all(number in images for number in numbers):  # asked for a second time
            del self._readings[now]
            self.expect(*now, positions.start)
            images = self._readings[now].images.result()
        self.expect(*ahead, 0)
        return [images.pop(number) for number in numbers]

    def fetch(self, epoch: int, window: int, since: int, stop: Event) -> Images:
        """Read a window's images from a position of its order; errors as in `TarStreams.read`."""
        wanted = set(self.plan.window_order(epoch, self.number, window)[since:].tolist())
        found: Images = {}
        for shard, first, last in self.plan.pieces(epoch, self.number, window):
            numbers = [number for number in range(first, last) if number in wanted]
            failures = 0
            while numbers and not stop.is_set():
                before = len(numbers)
                try:
                    self._read(shard, numbers, found, stop)
                except (OSError, EOFError) as error:
                    failures = failures + 1 if len(numbers) == before else 1
                    self._pause(self.images.shards[shard], error, failures, stop)
        return found

    def _read(self, shard: int, numbers: list[int], found: Images, stop: Event) -> None:
        """Read images of a shard into `found`, and take their numbers off the list."""
        entries = self.images.entries[numbers]
        offsets, sizes = entries["offset"].tolist(), entries["size"].tolist()
        keys = [sample_key(key) for key in entries["key"].tolist()]
        tar = self._tar(shard, offsets[0] - HEADER, offsets[-1] + sizes[-1])
        for number, key, offset, size in zip(list(numbers), keys, offsets, sizes, strict=True):
            if stop.is_set():
                break
            tar.skip_to(offset - HEADER)
            header = tar.read(HEADER)
            if tar.start and header.startswith(self._first_key(shard)) and not is_of(header, key, size):
                self.source.seeks = False  # the server answers a request for a part with the whole
                tar.start, tar.position = 0, HEADER
                tar.skip_to(offset - HEADER)
                header = tar.read(HEADER)
            if not is_of(header, key, size):
                raise MocoError(
                    f"{self.source.name(self.images.shards[shard])}: is not the tar that was indexed ({key} is not at its"
                    " place); upload data/shards again"
                )
            found[number] = tar.read(size)
            self.source.answered = True
            del numbers[0]
        if self.source.seeks:
            self._close()  # no idle connection until the next window, which servers cut

    def _first_key(self, shard: int) -> bytes:
        return f"{self.images.key(int(self.plan.first_of_shard[shard]))}.".encode()

    def _tar(self, shard: int, first: int, last: int) -> Tar:
        """Return the shard's tar, at byte `first` or before; the open one if it is."""
        if self._open is not None and self._open[0] == shard and self._open[1].position <= first:
            return self._open[1]
        self._close()
        tar = self.source.open(self.images.shards[shard], first, last)
        self._open = (shard, tar)
        return tar

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _pause(self, shard: str, error: OSError | EOFError, failures: int, stop: Event) -> None:
        """Wait before the next try, or raise a MocoError if none is left."""
        code, words = (None, "") if self._open is None else self._open[1].last_words()
        self._close()
        name = self.source.name(shard)
        reason = words or (f"exit code {code}" if code else getattr(error, "strerror", None) or str(error))
        if self.source.refuses(error, code, words):
            raise MocoError(
                f"{name}: {reason}; check machine.yaml's shards_from, and that all of data/shards is there"
            ) from None
        pauses = PAUSES + LATER if self.source.answered else PAUSES
        if failures > len(pauses):
            raise MocoError(
                f"{name}: {reason}, {failures} times in a row; once it can be read, the same command resumes from the"
                " last checkpoint"
            ) from None
        if not self.source.reported:
            self.source.reported = True
            print(f"pretrain: {name}: {reason}; reading resumes at the same byte", flush=True)
        stop.wait(pauses[failures - 1])


def is_of(header: bytes, key: str, size: int) -> bool:
    """Tell whether a tar's header belongs to a sample's image."""
    return header.startswith(f"{key}.".encode()) and header[124:135] == b"%011o" % size
