"""Images to WebDataset tars and their index, in parallel processes, the same bytes for any number of them.

Every shard is built under a temporary name in a work folder and renamed when it is whole, with a note beside
it; a run that was killed leaves finished shards, which the next run checks and keeps.
"""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moco.config import SPLITS, Shard, Split, settings_hash
from moco.cores import cores
from moco.errors import Interrupted, MocoError
from moco.files import file_sha256, move_folder, require_free
from moco.images.index import FORMAT
from moco.progress import Progress
from moco.shards.index import write_index
from moco.shards.tars import Origin, write_tar
from moco.sources.manifest import ARRAY_FILE, Manifest, Row, is_image_name, read_manifest

OVERHEAD = 2048  # bytes a sample beside the image: two headers, the JSON, padding
NAMED = 3  # bad files that an error names


@dataclass(frozen=True)
class Job:
    """The rows of one shard."""

    split: Split
    number: int
    first: int
    """Position of the first row in the split's part of the manifest."""
    rows: list[Row]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}.tar"


@dataclass(frozen=True)
class Done:
    """What a worker says of a finished shard."""

    split: Split
    samples: int
    kept: bool
    """Finished by an earlier run."""
    quarantine: list[dict[str, str]]
    """path and reason of the files left out."""


def write_shards(raw: Path, target: Path, runs: Path, settings: Shard, processes: int | None = None) -> dict[str, Any]:
    """Write the images of a manifest as tars with an index to `target`, replacing what is there.

    Args:
        raw: folder of manifest.csv and manifest.json; paths in it start at the working directory.
        target: receives SPLIT-NNNNNN.tar and SPLIT.index.npy for each split, index.json, quarantine.jsonl.
        runs: where the work folder lives until it is finished.
        settings: the shard section.
        processes: how many write; the result does not depend on it. None: one a processor. Memory is bounded
            by them, not by the number of images.

    Returns:
        images and quarantined; for each split its images, shards and bytes.

    Raises:
        MocoError: too many files are no images, one has changed since fetch, the disk is full, …
        Interrupted: on Ctrl-C or SIGTERM, after the processes have ended.
    """
    manifest, _ = read_manifest(raw)
    hashes = [file_sha256(raw / name) for name in ("manifest.json", "manifest.csv")]
    if manifest.root is None and not (raw / ARRAY_FILE).is_file():
        raise MocoError(f"{raw / ARRAY_FILE}: no such file; run `dvc repro --force fetch`")
    # Without the largest bad share: who raises it after a stop goes on with the same shards.
    decisive = settings.model_dump(exclude={"max_bad_fraction"})
    work = runs / f"shards-{settings_hash(FORMAT, decisive, hashes)}"
    with _alone(work):
        for folder in (work / "shards", work / "notes"):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.part"):
                leftover.unlink()
        finished = sum(tar.stat().st_size for tar in (work / "shards").glob("*.tar"))
        require_free(
            work, manifest.bytes + OVERHEAD * (manifest.images + manifest.other_files) - finished, "sharding the images"
        )
        try:
            samples = _build_all(raw, work, manifest, settings, processes or cores())
            metrics = write_index(work / "shards", work / "notes", manifest.classes, samples)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise MocoError(f"{work}: the disk is full; free some space, then run shard again") from None
        move_folder(work / "shards", target)
        shutil.rmtree(work)
    return metrics


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Only one run at a time works in the folder; the lock goes with the process, however it ends."""
    work.parent.mkdir(parents=True, exist_ok=True)
    path = work.with_suffix(".lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MocoError(f"{work}: another process is sharding these images; wait until it ends") from None
        try:
            yield
        finally:
            path.unlink()


def _plan(raw: Path, settings: Shard) -> Iterator[Job]:
    """Cut the manifest into shards; a function of the manifest alone, so that bad images move no others."""
    split, number, first, rows, size = SPLITS[0], 0, 0, list[Row](), 0
    for row in read_manifest(raw)[1]:
        full = len(rows) == settings.samples_per_shard or size + row.bytes > settings.megabytes_per_shard * 10**6
        if rows and (full or row.split != split):
            yield Job(split, number, first, rows)
            number, first, rows, size = number + 1, first + len(rows), [], 0
        if row.split != split:
            split, number, first = row.split, 0, 0
        rows.append(row)
        size += row.bytes
    if rows:
        yield Job(split, number, first, rows)


def _build_all(raw: Path, work: Path, manifest: Manifest, settings: Shard, processes: int) -> dict[Split, int]:
    # Forked from a clean server: safe beside threads, and quick to start with this module already imported.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    counts, stop = context.Array("q", 2), context.Value("b", 0, lock=False)
    tally = _Tally(manifest, settings)
    running: set[Future[Done]] = set()
    with ProcessPoolExecutor(processes, context, _start_worker, (raw, work, manifest, settings, counts, stop)) as pool:
        try:
            for job in _plan(raw, settings):
                while len(running) > processes:  # one job more than processes, so that none waits
                    running = tally.collect(running, counts)
                running.add(pool.submit(_build, job))
            while running:
                running = tally.collect(running, counts)
        except BaseException as error:
            stop.value = 1
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                finished = len(list((work / "notes").glob("*.json")))
                raise Interrupted(
                    f"sharding stopped; {finished} finished shards are kept, run shard again to go on"
                ) from None
            if isinstance(error, BrokenProcessPool):
                raise MocoError(
                    "a sharding process ended before its time, most likely killed for lack of memory; finished"
                    " shards are kept, run shard again, with fewer processes if it happens again"
                ) from None
            raise
    if tally.kept:
        print(f"{tally.kept} of {tally.shards} shards were finished by an earlier run and are kept")
    return tally.samples


class _Tally:
    """How far the shards have come, and how many files were bad."""

    def __init__(self, manifest: Manifest, settings: Shard) -> None:
        self.total, self.limit = manifest.images, settings.max_bad_fraction
        files = manifest.images + manifest.other_files
        self.progress, self.started = Progress("shard", files), time.monotonic()
        self.bad = self.shards = self.kept = 0
        self.samples: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.named: list[str] = []

    def collect(self, running: set[Future[Done]], counts: Any) -> set[Future[Done]]:
        done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            shard = future.result()
            self.samples[shard.split] += shard.samples
            self.shards, self.kept = self.shards + 1, self.kept + shard.kept
            # A text or a sound beside the images is listed too, but is no sign of a bad source.
            bad = [f"{item['path']} ({item['reason']})" for item in shard.quarantine if is_image_name(item["path"])]
            self.bad, self.named = self.bad + len(bad), sorted([*self.named, *bad])[:NAMED]
        self.check()
        images, size = counts.get_obj()  # without the lock, which a killed process may have taken with it
        seconds = max(time.monotonic() - self.started, 1e-9)
        self.progress.update(images, f"{images / seconds:.0f} images/s · {size / seconds / 1e6:.1f} MB/s")
        return running

    def check(self) -> None:
        if self.bad > self.limit * self.total:
            raise MocoError(
                f"{self.bad} of {self.total} images ({self.bad / self.total:.1%}) are unreadable, more than"
                f" shard.max_bad_fraction = {self.limit:g}:"
                f" {'; '.join(self.named)}{'; …' if self.bad > NAMED else ''};"
                " mend or remove them, or raise the fraction"
            )


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


def _start_worker(raw: Path, work: Path, manifest: Manifest, settings: Shard, counts: Any, stop: Any) -> None:
    global _worker
    # The parent alone answers Ctrl-C, and ends its workers through `stop`; should it be killed outright, they
    # end with it. SIGTERM must end them, for it is how the pool clears up after one that was killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # libpng and libjpeg print a line there for every odd but readable image. Errors reach the parent as objects.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    arrays = None if manifest.root is not None else np.load(raw / ARRAY_FILE, mmap_mode="r")
    classes = {name: label for label, name in enumerate(manifest.classes)}
    _worker = _Worker(work, Origin(Path(manifest.root or raw), arrays, classes, settings), counts, stop)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _build(job: Job) -> Done:
    """Write one shard and its note, unless an earlier run did."""
    worker = _worker
    tar, note = worker.work / "shards" / job.name, worker.work / "notes" / f"{job.name}.json"
    found = _finished(tar, note)
    if found is None:
        since = [0, 0]

        def tick(size: int) -> None:
            if worker.stop.value:
                raise Interrupted("stopped by the parent process")
            since[0], since[1] = since[0] + 1, since[1] + size
            if since[0] == 32:
                flush()

        def flush() -> None:
            with worker.counts.get_lock():
                worker.counts[0] += since[0]
                worker.counts[1] += since[1]
            since[:] = [0, 0]

        part = tar.with_suffix(".part")
        found = write_tar(part, job.split, job.first, job.rows, worker.origin, tick)
        flush()
        part.rename(tar)
        part = note.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(note)
        kept = False
    else:
        kept = True
        with worker.counts.get_lock():
            worker.counts[0] += len(job.rows)
    return Done(job.split, found["samples"], kept, found["quarantine"])


def _finished(tar: Path, note: Path) -> dict[str, Any] | None:
    """The note of a shard that an earlier run finished, if the tar is what it says."""
    try:
        found: dict[str, Any] = json.loads(note.read_bytes())
        return found if tar.stat().st_size == found["bytes"] and file_sha256(tar) == found["sha256"] else None
    except (OSError, ValueError):
        return None
