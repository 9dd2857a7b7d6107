"""One of the processes that write shards: each shard and its note appear whole, or not at all."""

import json
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moco.config import Shard
from moco.errors import Interrupted
from moco.files import file_sha256, whole_file
from moco.shards.plan import Planned, pieces_of
from moco.shards.tars import Origin, Segment, write_tar
from moco.sources.manifest import Listing, Manifest
from moco.sources.places import Place

TICKS = 32  # images between two updates of the shared counts


@dataclass(frozen=True)
class Written:
    """What a process reports about a finished shard."""

    kept: bool
    """Finished by an earlier run."""
    quarantine: list[dict[str, str]]
    """path and reason of the files left out."""
    of_frames: int
    """Images of several frames or pages."""


@dataclass(frozen=True)
class _Worker:
    """What a process keeps between shards."""

    work: Path
    origins: list[Origin]
    """Of the images of each listing."""
    target: Path
    """Where the shards of an earlier run are."""
    start: Path = Path()
    """Where paths start that the settings gave."""
    counts: Any = None
    """Shared with the parent: files and source bytes done so far; None: nobody counts."""
    stop: Any = None
    """Shared with the parent: not zero when the run is to end."""

    def named(self, place: Place) -> Place:
        """Name a place from where its path starts."""
        return place._replace(root=str(self.start / place.root))

    def check(self) -> None:
        """Raise Interrupted if the parent asked to stop."""
        if self.stop is not None and self.stop.value:
            raise Interrupted("stopped by the parent process")

    def count(self, images: int, size: int) -> None:
        """Let the parent know what is done."""
        if self.counts is not None:
            with self.counts.get_lock():
                self.counts[0] += images
                self.counts[1] += size


_worker: _Worker


@dataclass(frozen=True)
class Anywhere:
    """Writes a shard on any host that sees the same folders; `build` with what it needs.

    Attributes:
        raw: folder of the manifest.
        work: its folders `shards` and `notes` receive the results.
        target: where the shards of an earlier run are.
        manifest: where the images are.
        settings: how they are stored.
        start: where paths start that the settings gave.
    """

    raw: Path
    work: Path
    target: Path
    manifest: Manifest
    settings: Shard
    start: Path

    @classmethod
    def of(cls, raw: Path, work: Path, target: Path, manifest: Manifest, settings: Shard) -> "Anywhere":
        """Name all folders from the root, because other hosts work in other folders."""
        return cls(raw.absolute(), work.absolute(), target.absolute(), manifest, settings, Path.cwd())

    def __call__(self, planned: Planned) -> Written:
        """Write one shard and its note, unless an earlier run did."""
        return _build(planned, self._worker)

    @cached_property
    def _worker(self) -> _Worker:
        origins = _origins(self.raw, self.manifest, self.settings)
        here = [replace(origin, root=self.start / origin.root) for origin in origins]
        return _Worker(self.work, here, self.target, self.start)


def start(raw: Path, work: Path, target: Path, manifest: Manifest, settings: Shard, counts: Any, stop: Any) -> None:
    """Prepare a process.

    Args:
        raw: folder of the manifest.
        work: its folders `shards` and `notes` receive the results.
        target: where the shards of an earlier run are.
        manifest: where the images are.
        settings: how they are stored.
        counts: shared array of two: files and source bytes done by all processes.
        stop: shared value; other than 0 it ends the writing.
    """
    global _worker
    # The parent alone answers Ctrl-C and ends its workers through `stop`; if it is killed, they
    # end too. SIGTERM must end them, because the pool sends it after a worker was killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # libpng and libjpeg print a line there for every odd but readable image; errors travel as
    # objects.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _worker = _Worker(work, _origins(raw, manifest, settings), target, counts=counts, stop=stop)


def _origins(raw: Path, manifest: Manifest, settings: Shard) -> list[Origin]:
    classes = {name: label for label, name in enumerate(manifest.classes)}
    return [_origin(raw, listing, classes, settings) for listing in manifest.listings]


def _origin(raw: Path, listing: Listing, classes: dict[str, int], settings: Shard) -> Origin:
    array = raw / Path(listing.file).with_suffix(".npy")
    arrays = None if listing.root is not None else np.load(array, mmap_mode="r")
    return Origin(Path(listing.root or raw), arrays, classes, settings)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build(planned: Planned) -> Written:
    """Write one shard and its note, unless an earlier run did, in a process that was started.

    Raises:
        Interrupted: the parent asked to stop.
    """
    return _build(planned, _worker)


def _build(planned: Planned, worker: _Worker) -> Written:
    tar, note = worker.work / "shards" / planned.name, worker.work / "notes" / f"{planned.name}.json"
    found = _finished(tar, note)
    kept = found is not None
    if found is None:
        done = [0, 0]

        def tick(size: int) -> None:
            worker.check()
            done[:] = done[0] + 1, done[1] + size
            if done[0] == TICKS:
                worker.count(*done)
                done[:] = 0, 0

        # Under a name of its own: a process of another host that was given up may be at it still.
        with whole_file(tar, shared=True) as part:
            found = write_tar(part, [_segment(piece, worker) for piece in pieces_of(planned)], tick)
        worker.count(*done)
        with whole_file(note, shared=True) as part:
            part.write_text(json.dumps(found), encoding="utf-8")
    else:
        worker.count(len(planned.rows), 0)
    return Written(kept, found["quarantine"], found.get("of_frames", 0))


def _segment(piece: Planned, worker: _Worker) -> Segment:
    rows = [placed.row for placed in piece.rows]
    if piece.before:
        return Segment(rows, before=worker.target / piece.before, bad=piece.bad)
    origins = [worker.origins[placed.listing] for placed in piece.rows]
    return Segment(rows, origins, [tuple(map(worker.named, placed.places)) for placed in piece.rows])


def _finished(tar: Path, note: Path) -> dict[str, Any] | None:
    """Read the note of a shard that an earlier run finished, if it describes the tar."""
    try:
        found: dict[str, Any] = json.loads(note.read_bytes())
        return found if tar.stat().st_size == found["bytes"] and file_sha256(tar) == found["sha256"] else None
    except (OSError, ValueError):
        return None
