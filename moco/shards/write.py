"""Images to WebDataset tars and their index: the same bytes for any number of processes.

Each shard is built under a temporary name in a work folder and renamed when it is whole, with a
note beside it; after a kill, the next run checks and keeps the finished shards.
"""

import multiprocessing.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.cluster.pieces import Engine, spread
from moco.config import Shard, settings_hash
from moco.cores import cores
from moco.errors import Interrupted, MocoError
from moco.files import after_a_kill, hash_of_files, link_file, move_file, move_folder, require_free
from moco.images.index import FORMAT, read_index
from moco.locks import exclusive
from moco.progress import Progress
from moco.shards import worker
from moco.shards.earlier import Earlier
from moco.shards.index import Piece, write_index
from moco.shards.plan import Planned, pieces_of, plan_shards
from moco.shards.tally import Tally
from moco.sources.manifest import Manifest, Placed, as_json, read_together
from moco.sources.names import is_image_name
from moco.sources.places import file_at

OVERHEAD = 2048  # bytes a sample beside the image: two headers, the JSON, padding
_PACKAGE = Path(__file__).parents[1]
RULES = [_PACKAGE / "shards", *(_PACKAGE / "images" / f"{name}.py" for name in ("decode", "jpeg", "unsupported"))]
"""Sources that decide which images are sound: shards of other rules are not continued."""


def write_shards(
    raw: Path, target: Path, runs: Path, settings: Shard, processes: int | None = None, engine: Engine | None = None
) -> dict[str, Any]:
    """Bring the shards of a manifest up to date: tars with an index in `target`.

    A tar that is there already, of the same lines and settings, stays; one whose images are in it
    beside others that were taken out is copied without these.

    Args:
        raw: folder of the manifest; paths in it start at the working directory.
        target: receives SPLIT-NNNNNN.tar and SPLIT.index.npy for each split, index.json and
            quarantine.jsonl.
        runs: where the work folder lives until it is finished.
        settings: the shard section.
        processes: how many write; the result does not depend on it. None: one a processor. Memory
            grows with them, not with the number of images.
        engine: has shards written on other hosts, which see these folders under the same names;
            None: `processes` of this one do.

    Returns:
        images and quarantined; for each split its images, shards and bytes.

    Raises:
        MocoError: too many files are unreadable, one has changed since fetch, …
        OSError: the disk is full or not writable; finished shards are kept.
        Interrupted: on Ctrl-C or SIGTERM, after the processes have ended.
    """
    manifest, removed = read_together(raw)
    # Without what no tar's bytes depend on: whoever raises the bad share keeps the finished shards.
    decisive = settings.model_dump(exclude={"max_bad_fraction", "merge_below"})
    # Without the code too: a newer version of this program keeps the tars, or has another FORMAT.
    rules = settings_hash(FORMAT, decisive)
    about = as_json(manifest), sorted([*line, change] for line, change in removed.items())
    code = hash_of_files(RULES, _PACKAGE, (".py",))
    work = runs / f"shards-{settings_hash(rules, settings.merge_below, about, code)}"
    lock = work.with_suffix(".lock")
    runs.mkdir(parents=True, exist_ok=True)
    with exclusive(lock, work, patience=0, what="is sharding these images"):
        for folder in (work / "shards", work / "notes"):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_parts(folder)
        after_a_kill(target)
        earlier = Earlier.read(target)
        job = _Job(raw, work, manifest, removed, settings, rules, earlier)
        pieces = job.look()
        job.build(pieces, processes or cores(), engine)
        metrics = _put_in_place(work, target, manifest, pieces, earlier)
        shutil.rmtree(work)
        lock.unlink()
    return metrics


def _remove_parts(folder: Path) -> None:
    """Remove what processes that were killed left."""
    for leftover in folder.glob("*.part.*"):
        leftover.unlink()


def _put_in_place(
    work: Path, target: Path, manifest: Manifest, pieces: list[Piece], earlier: Earlier
) -> dict[str, Any]:
    """Move the new tars beside those that stay; if none stays, replace the whole folder.

    It is replaced too where a tar has the name of another one, as after a switch of git's branch:
    a killed run leaves the set as it was or as it will be.
    """
    written, notes = work / "shards", work / "notes"
    kept = {piece.name for piece in pieces if piece.kept}
    listed = {shard.file for _, _, shard in earlier.shards.values()}
    if not kept or any(piece.name in listed for piece in pieces if not piece.kept):
        parts = {part.file for parts in earlier.parts.values() for part in parts}
        for name in kept | parts if kept else kept:
            (written / name).unlink(missing_ok=True)
            link_file(target / name, written / name)
        metrics = write_index(written, notes, manifest.classes, pieces, earlier)
        _remove_unlisted(written)
        move_folder(written, target)
        return metrics
    for tar in sorted(written.glob("*.tar")):
        move_file(tar, target / tar.name)
    metrics = write_index(target, notes, manifest.classes, pieces, earlier)
    _remove_unlisted(target)
    return metrics


def _remove_unlisted(folder: Path) -> None:
    """Remove what index.json does not name, and what killed processes left."""
    index = read_index(folder)
    listed = {shard.file for split in index.splits.values() for shard in split.shards}
    listed |= {part.file for split in index.splits.values() for part in split.parts}
    for path in (*folder.glob("*.tar"), *folder.glob("*.index.npy"), *folder.glob("*.part.*")):
        if path.name not in listed:
            path.unlink(missing_ok=True)


@dataclass
class _Job:
    """The shards that are planned, and those of them that are to be written."""

    raw: Path
    work: Path
    manifest: Manifest
    removed: dict[tuple[int, int], int]
    settings: Shard
    rules: str
    earlier: Earlier
    images: int = 0
    """To be written, by their names."""
    files: int = 0

    def _planned(self) -> Iterator[Planned]:
        plan = plan_shards(self.raw, self.manifest, self.removed, self.settings, self.rules)
        return (planned for planned in plan if planned.rows)

    def look(self) -> list[Piece]:
        """See which shards stay, and that there is room for the others."""
        pieces, needed, sources = list[Piece](), 0, Counter[int]()
        for planned in self._planned():
            kept = self.earlier.keeps(planned)
            pieces.append(Piece(planned.split, planned.name, planned.made_of, kept))
            if not kept:
                self.files += len(planned.rows)
                self.images += sum(row.row is not None or is_image_name(row.path) for _, _, row, *_ in planned.rows)
                needed += sum(placed.row.bytes + OVERHEAD for placed in planned.rows)
                missing = [placed for piece in pieces_of(planned) if not piece.before for placed in piece.rows]
                sources.update(placed.listing for placed in missing if not self._is_elsewhere(placed))
        for number, images in sources.items():
            listing = self.manifest.listings[number]
            array = self.raw / Path(listing.file).with_suffix(".npy")
            if listing.root is None and not array.is_file():
                raise MocoError(f"{array}: no such file; run `dvc repro --force fetch`")
            if listing.root is not None and not Path(listing.root).exists():
                raise MocoError(
                    f"{listing.root}: not there, and {images} images came from it; bring them back, or get their"
                    " shards by `dvc checkout data/shards` or `dvc pull data/shards`; `moco ingest` finds them at another"
                    " place"
                )
        finished = sum(tar.stat().st_size for tar in (self.work / "shards").glob("*.tar"))
        require_free(self.work, needed - finished, "sharding the images")
        if (stay := sum(piece.kept for piece in pieces)) and stay < len(pieces):
            print(f"{stay} of {len(pieces)} shards stay as they are")
        return pieces

    def _is_elsewhere(self, placed: Placed) -> bool:
        return any(file_at(*place[2:5]).exists() for place in placed.places)

    def _new(self, pieces: list[Piece]) -> Iterator[Planned]:
        """Plan the shards again that do not stay."""
        for planned, piece in zip(self._planned(), pieces, strict=True):
            if not (piece.kept or self.earlier.keeps(planned)):  # asked, it notes a tar to copy from
                yield planned

    def build(self, pieces: list[Piece], processes: int, engine: Engine | None) -> None:
        """Write the shards that do not stay."""
        if not self.files:
            return
        tally = Tally(self.images, self.settings.max_bad_fraction)
        try:
            if engine:
                self._build_elsewhere(engine, pieces, tally)
            else:
                self._build_here(processes, pieces, tally)
        except KeyboardInterrupt:
            finished = len(list((self.work / "notes").glob("*.json")))
            raise Interrupted(
                f"sharding stopped; {finished} finished shards are kept, run shard again to continue"
            ) from None
        tally.say()

    def _build_elsewhere(self, engine: Engine, pieces: list[Piece], tally: Tally) -> None:
        write = worker.Anywhere.of(self.raw, self.work, self.earlier.folder, self.manifest, self.settings)
        with closing(spread(engine, "shard", self.work, write, self._new(pieces))) as written:
            for shard in written:
                tally.add(shard)
                tally.check()

    def _build_here(self, processes: int, pieces: list[Piece], tally: Tally) -> None:
        # Forked from a clean server: safe beside threads, quick with the worker's module imported.
        _choose_folder_for_sockets()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([worker.__name__])
        counts, stop = context.Array("q", 2), context.Value("b", 0, lock=False)
        follow = _Following(tally, counts, Progress("shard", self.files))
        running: set[Future[worker.Written]] = set()
        given = (self.raw, self.work, self.earlier.folder, self.manifest, self.settings, counts, stop)
        with ProcessPoolExecutor(processes, context, worker.start, given) as pool:
            try:
                for planned in self._new(pieces):
                    while len(running) > processes:  # one more than processes, so that none waits
                        running = follow.collect(running)
                    with undisturbed():  # a process that is half started would not be waited for
                        running.add(pool.submit(worker.build, planned))
                while running:
                    running = follow.collect(running)
            except BaseException as error:
                stop.value = 1
                pool.shutdown(cancel_futures=True)
                if isinstance(error, BrokenProcessPool):
                    raise MocoError(
                        "a sharding process was ended, probably for lack of memory; finished shards are kept, run shard"
                        " again, with fewer processes if that happens again"
                    ) from None
                raise


@contextmanager
def undisturbed() -> Iterator[None]:
    """Have SIGINT and SIGTERM, which the main thread gets, wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in both}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _choose_folder_for_sockets() -> None:
    """Keep the name of the fork server's socket short: the system allows 107 bytes.

    Batch systems make longer temporary folders. multiprocessing keeps the folder it chose first.
    """
    if len(os.fsencode(tempfile.gettempdir())) > 64:
        before, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            multiprocessing.util.get_temp_dir()
        finally:
            tempfile.tempdir = before


class _Following:
    """What the processes of this host have done so far."""

    def __init__(self, tally: Tally, counts: Any, progress: Progress) -> None:
        self.tally, self.counts, self.progress, self.started = tally, counts, progress, time.monotonic()

    def collect(self, running: set[Future[worker.Written]]) -> set[Future[worker.Written]]:
        done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            self.tally.add(future.result())
        self.tally.check()
        images, size = self.counts.get_obj()  # without the lock, which a killed process may hold
        seconds = max(time.monotonic() - self.started, 1e-9)
        self.progress.update(images, f"{images / seconds:.0f} images/s · {size / seconds / 1e6:.1f} MB/s")
        return running
