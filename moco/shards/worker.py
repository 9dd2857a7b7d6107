"""One of the processes that write shards: each shard and its note appear whole, or not at all."""

import json
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moco.config import Shard, Split
from moco.errors import Interrupted
from moco.files import file_sha256, whole_file, write_text
from moco.shards.plan import Planned
from moco.shards.tars import Origin, write_tar
from moco.sources.manifest import ARRAY_FILE, Manifest

TICKS = 32  # images between two updates of the shared counts


@dataclass(frozen=True)
class Written:
    """What a process reports about a finished shard."""

    split: Split
    samples: int
    kept: bool
    """Finished by an earlier run."""
    quarantine: list[dict[str, str]]
    """path and reason of the files left out."""


@dataclass(frozen=True)
class _Worker:
    """What a process keeps between shards."""

    work: Path
    origin: Origin
    counts: Any
    """Shared: files and source bytes done so far."""
    stop: Any
    """Shared: not zero when the run is to end."""


_worker: _Worker


def start(raw: Path, work: Path, manifest: Manifest, settings: Shard, counts: Any, stop: Any) -> None:
    """Prepare a process.

    Args:
        raw: folder of the manifest.
        work: its folders `shards` and `notes` receive the results.
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
    arrays = None if manifest.root is not None else np.load(raw / ARRAY_FILE, mmap_mode="r")
    classes = {name: label for label, name in enumerate(manifest.classes)}
    _worker = _Worker(work, Origin(Path(manifest.root or raw), arrays, classes, settings), counts, stop)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build(planned: Planned) -> Written:
    """Write one shard and its note, unless an earlier run did.

    Raises:
        Interrupted: the parent asked to stop.
    """
    tar, note = _worker.work / "shards" / planned.name, _worker.work / "notes" / f"{planned.name}.json"
    found = _finished(tar, note)
    kept = found is not None
    if found is None:
        done = [0, 0]

        def tick(size: int) -> None:
            if _worker.stop.value:
                raise Interrupted("stopped by the parent process")
            done[:] = done[0] + 1, done[1] + size
            if done[0] == TICKS:
                _count(*done)
                done[:] = 0, 0

        with whole_file(tar) as part:
            found = write_tar(part, planned.split, planned.first, planned.rows, _worker.origin, tick)
        _count(*done)
        write_text(note, json.dumps(found))
    else:
        _count(len(planned.rows), 0)
    return Written(planned.split, found["samples"], kept, found["quarantine"])


def _count(images: int, size: int) -> None:
    with _worker.counts.get_lock():
        _worker.counts[0] += images
        _worker.counts[1] += size


def _finished(tar: Path, note: Path) -> dict[str, Any] | None:
    """Read the note of a shard that an earlier run finished, if it describes the tar."""
    try:
        found: dict[str, Any] = json.loads(note.read_bytes())
        return found if tar.stat().st_size == found["bytes"] and file_sha256(tar) == found["sha256"] else None
    except (OSError, ValueError):
        return None
