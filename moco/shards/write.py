"""Images to WebDataset tars and their index: the same bytes for any number of processes.

Each shard is built under a temporary name in a work folder and renamed when it is whole, with a
note beside it; after a kill, the next run checks and keeps the finished shards.
"""

import errno
import multiprocessing
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from moco.config import SPLITS, Shard, Split, settings_hash
from moco.cores import cores
from moco.errors import Interrupted, MocoError
from moco.files import exclusive, file_sha256, move_folder, require_free
from moco.images.index import FORMAT
from moco.progress import Progress
from moco.shards import worker
from moco.shards.index import write_index
from moco.shards.plan import plan_shards
from moco.sources.manifest import ARRAY_FILE, Manifest, is_image_name, read_manifest

OVERHEAD = 2048  # bytes a sample beside the image: two headers, the JSON, padding
NAMED = 3  # bad files that an error names


def write_shards(raw: Path, target: Path, runs: Path, settings: Shard, processes: int | None = None) -> dict[str, Any]:
    """Write the images of a manifest as tars with an index to `target`, replacing what is there.

    Args:
        raw: folder of manifest.csv and manifest.json; paths in it start at the working directory.
        target: receives SPLIT-NNNNNN.tar and SPLIT.index.npy for each split, index.json and
            quarantine.jsonl.
        runs: where the work folder lives until it is finished.
        settings: the shard section.
        processes: how many write; the result does not depend on it. None: one a processor. Memory
            grows with them, not with the number of images.

    Returns:
        images and quarantined; for each split its images, shards and bytes.

    Raises:
        MocoError: too many files are unreadable, one has changed since fetch, the disk is full, …
        Interrupted: on Ctrl-C or SIGTERM, after the processes have ended.
    """
    manifest, _ = read_manifest(raw)
    hashes = [file_sha256(raw / name) for name in ("manifest.json", "manifest.csv")]
    if manifest.root is None and not (raw / ARRAY_FILE).is_file():
        raise MocoError(f"{raw / ARRAY_FILE}: no such file; run `dvc repro --force fetch`")
    # Without the largest bad share: whoever raises it after a stop keeps the finished shards.
    decisive = settings.model_dump(exclude={"max_bad_fraction"})
    work = runs / f"shards-{settings_hash(FORMAT, decisive, hashes)}"
    lock = work.with_suffix(".lock")
    runs.mkdir(parents=True, exist_ok=True)
    with exclusive(lock, work, patience=0, what="is sharding these images"):
        for folder in (work / "shards", work / "notes"):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.part.*"):
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
        lock.unlink()
    return metrics


def _build_all(raw: Path, work: Path, manifest: Manifest, settings: Shard, processes: int) -> dict[Split, int]:
    # Forked from a clean server: safe beside threads, and quick with the worker's module imported.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    counts, stop = context.Array("q", 2), context.Value("b", 0, lock=False)
    tally = _Tally(manifest, settings)
    running: set[Future[worker.Written]] = set()
    with ProcessPoolExecutor(processes, context, worker.start, (raw, work, manifest, settings, counts, stop)) as pool:
        try:
            for planned in plan_shards(raw, settings):
                while len(running) > processes:  # one more than processes, so that none waits
                    running = tally.collect(running, counts)
                running.add(pool.submit(worker.build, planned))
            while running:
                running = tally.collect(running, counts)
        except BaseException as error:
            stop.value = 1
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                finished = len(list((work / "notes").glob("*.json")))
                raise Interrupted(
                    f"sharding stopped; {finished} finished shards are kept, run shard again to continue"
                ) from None
            if isinstance(error, BrokenProcessPool):
                raise MocoError(
                    "a sharding process was ended, probably for lack of memory; finished shards are kept, run shard"
                    " again, with fewer processes if that happens again"
                ) from None
            raise
    if tally.kept:
        print(f"{tally.kept} of {tally.shards} shards were finished by an earlier run and are kept")
    return tally.samples


class _Tally:
    """How many shards are done, and how many files were bad."""

    def __init__(self, manifest: Manifest, settings: Shard) -> None:
        self.total, self.limit = manifest.images, settings.max_bad_fraction
        files = manifest.images + manifest.other_files
        self.progress, self.started = Progress("shard", files), time.monotonic()
        self.bad = self.shards = self.kept = 0
        self.samples: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.named: list[str] = []

    def collect(self, running: set[Future[worker.Written]], counts: Any) -> set[Future[worker.Written]]:
        done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            shard = future.result()
            self.samples[shard.split] += shard.samples
            self.shards, self.kept = self.shards + 1, self.kept + shard.kept
            # A text beside the images is listed too, but is no sign of a bad source.
            bad = [f"{item['path']} ({item['reason']})" for item in shard.quarantine if is_image_name(item["path"])]
            self.bad, self.named = self.bad + len(bad), sorted([*self.named, *bad])[:NAMED]
        self.check()
        images, size = counts.get_obj()  # without the lock, which a killed process may hold
        seconds = max(time.monotonic() - self.started, 1e-9)
        self.progress.update(images, f"{images / seconds:.0f} images/s · {size / seconds / 1e6:.1f} MB/s")
        return running

    def check(self) -> None:
        if self.bad > self.limit * self.total:
            raise MocoError(
                f"{self.bad} of {self.total} images ({self.bad / self.total:.1%}) are unreadable, more than"
                f" shard.max_bad_fraction = {self.limit:g}:"
                f" {'; '.join(self.named)}{'; …' if self.bad > NAMED else ''};"
                " repair or remove them, or raise the fraction"
            )
