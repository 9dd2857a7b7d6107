"""The records of a whole shard set, measured by processes; those of a tar are kept by its hash."""

import hashlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco import npy
from moco.cluster.pieces import Engine, spread
from moco.config import SPLITS, Split
from moco.cores import cores
from moco.errors import MocoError
from moco.files import hash_of_files, whole_file
from moco.images.batches import read
from moco.images.index import ShardSet, open_split, read_index
from moco.progress import Progress
from moco.survey import measure as measuring
from moco.survey.measure import RECORD, measure

TASK = 256
"""Images that a process measures at once."""
FORGOTTEN = 30 * 24 * 3600.0
"""Seconds after which records that nobody used are removed."""
_RULES = Path(measuring.__file__)


@dataclass(frozen=True)
class Survey:
    """A shard set with the records of its images, in the order of the splits.

    Attributes:
        splits: the images.
        records: `RECORD` of each, all splits one after the other.
        measured: how many were measured now; the others were kept.
    """

    splits: dict[Split, ShardSet]
    records: NDArray[Any]
    measured: int

    def __len__(self) -> int:
        return len(self.records)

    def starts(self) -> dict[Split, int]:
        """Give the number of the first image of each split."""
        ends = np.cumsum([0, *(len(images) for images in self.splits.values())])
        return dict(zip(self.splits, ends.tolist(), strict=False))

    def place(self, number: int) -> tuple[Split, int]:
        """Give the split of an image, and its number there."""
        split, start = next(item for item in reversed(self.starts().items()) if item[1] <= number)
        return split, number - start

    def key(self, number: int) -> str:
        """Give an image's WebDataset key."""
        split, i = self.place(number)
        return self.splits[split].key(i)

    @property
    def split_of(self) -> NDArray[np.int64]:
        """The position in `SPLITS` of each image's split, int64 [N]."""
        return np.repeat(np.arange(len(SPLITS)), [len(images) for images in self.splits.values()])

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [N]; -1 = unlabelled."""
        return np.concatenate([images.labels for images in self.splits.values()])


def survey(folder: Path, kept: Path, stage: str, engine: Engine | None = None) -> Survey:
    """Measure every image of a shard set whose tar was not measured before.

    Args:
        folder: of the shards.
        kept: untracked folder of the records of tars.
        stage: first word of the progress line.
        engine: has tars measured on other hosts, which see these folders under the same names;
            None: processes of this one do.

    Raises:
        MocoError: the set is damaged, or an image no longer decodes.
    """
    splits: dict[Split, ShardSet] = {split: open_split(folder, split) for split in SPLITS}
    parts = [part for images in splits.values() for part in _parts(images, folder, kept)]
    new = [part for part in parts if not part.is_there()]
    kept.mkdir(parents=True, exist_ok=True)
    if engine:
        _measure_elsewhere(engine, new, stage, kept)
    else:
        _measure_all(new, stage)
    start, records = 0, np.zeros(sum(map(len, splits.values())), RECORD)
    for images in splits.values():
        for part in [part for part in parts if part.images is images]:
            records[start + part.rows] = np.load(part.file)
            part.file.touch()
        start += len(images)
    _forget(kept)
    return Survey(splits, records, sum(len(part.rows) for part in new))


def _forget(kept: Path) -> None:
    """Remove records of tars that no set had for long; another folder's run may be reading some."""
    for file in kept.glob("*.npy"):
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > FORGOTTEN:
                file.unlink()


@dataclass(frozen=True)
class _Part:
    """The images of one tar.

    Attributes:
        images: the split.
        rows: int64, their numbers in it, in the order of the tar.
        file: where their records are kept.
    """

    images: ShardSet
    rows: NDArray[np.int64]
    file: Path

    def is_there(self) -> bool:
        found = npy.mapped(self.file) if self.file.exists() else None
        return found is not None and found.dtype == RECORD and len(found) == len(self.rows)


def _parts(images: ShardSet, folder: Path, kept: Path) -> Iterator[_Part]:
    """Find the images of each tar; an index that leaves some of them out is another part."""
    shards, rules = read_index(folder).splits[images.split].shards, hash_of_files([_RULES], _RULES.parent)
    offsets, tars = np.asarray(images.entries["offset"]), np.asarray(images.entries["shard"])
    order = np.lexsort((offsets, tars))
    for number, rows in enumerate(np.split(order, np.searchsorted(tars[order], np.arange(1, len(shards))))):
        if len(rows):  # a split without images has no tar either
            about = f"{rules} {shards[number].sha256}".encode() + offsets[rows].tobytes()
            yield _Part(images, rows, kept / f"{hashlib.sha256(about).hexdigest()[:32]}.npy")


def _measure_all(parts: list[_Part], stage: str) -> None:
    tasks = [(part, rows) for part in parts for rows in _tasks(part.rows)]
    total, done = sum(len(rows) for _, rows in tasks), 0
    progress = Progress(stage, total)
    if not tasks:
        return
    found: dict[Path, list[NDArray[Any]]] = {}
    for (part, rows), records in zip(tasks, _by_processes(tasks), strict=True):
        pieces = found.setdefault(part.file, [])
        pieces.append(records)
        done += len(rows)
        progress.update(done, f"{done} images measured")
        if sum(map(len, pieces)) == len(part.rows):
            with whole_file(part.file, shared=True) as file, file.open("wb") as out:
                np.save(out, np.concatenate(found.pop(part.file)))


def _tasks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(rows, -(-len(rows) // TASK))


def _measure_elsewhere(engine: Engine, parts: list[_Part], stage: str, kept: Path) -> None:
    images = {part.images.split: part.images for part in parts}
    work = _Anywhere({split: replace(each, folder=each.folder.absolute(), _files={}) for split, each in images.items()})
    items = ((part.images.split, part.rows, part.file.absolute()) for part in parts)
    with closing(spread(engine, stage, kept.with_name(f"{kept.name}-measure"), work, items)) as measured:
        for _ in measured:
            pass
    for leftover in kept.glob("*.part.npy"):  # of processes that were replaced
        leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Anywhere:
    """Measures the images of a tar on any host that sees the same folders."""

    splits: dict[Split, ShardSet]

    def __call__(self, item: tuple[Split, NDArray[np.int64], Path]) -> None:
        split, rows, path = item
        records = np.concatenate([_measured((self.splits[split], part)) for part in _tasks(rows)])
        with whole_file(path, shared=True) as file, file.open("wb") as out:
            np.save(out, records)


def _by_processes(tasks: list[tuple[_Part, NDArray[np.int64]]]) -> Iterator[NDArray[Any]]:
    """Measure tasks in their order; small sets in this process, which starts no other for them."""
    work = [(replace(part.images, _files={}), rows) for part, rows in tasks]
    processes = min(cores(), len(tasks))
    if processes == 1 or len(tasks) <= 2:
        yield from map(_measured, work)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(processes, context) as pool:
        try:
            yield from pool.map(_measured, work, chunksize=4)
        except BrokenProcessPool:
            raise MocoError(
                "a process that measures images was ended, probably for lack of memory; run the same command again: tars"
                " that were measured are kept"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _measured(task: tuple[ShardSet, NDArray[np.int64]]) -> NDArray[Any]:
    images, rows = task
    files = ((images.read(int(row)), images.key(int(row))) for row in rows)
    return measure(((data, read(data, key)) for data, key in files), len(rows))
