"""The images of a source as hashed items; arrays are stored on the way."""

import hashlib
import pickle
import shutil
import time
from collections import deque
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from moco import npy
from moco.cluster.pieces import Engine, spread
from moco.cores import cores
from moco.files import require_free, whole_file
from moco.progress import Progress
from moco.sources.listing import Item
from moco.sources.marks import Mark, Marks, mark_of
from moco.sources.source import Arrays, File, Files


def stream(
    source: Files | Arrays,
    folder: Path,
    marks: Marks | None,
    array: str = "000000.npy",
    forgotten: Set[str] = frozenset(),
    engine: Engine | None = None,
) -> Iterator[Item]:
    """Hash the images that `marks` do not know, and write arrays to `folder`/`array`.

    Args:
        source: the images.
        folder: receives arrays, and what an engine needs meanwhile.
        marks: what is known of files.
        array: name of the array.
        forgotten: SHA-256 of images of an array that are stored as zeros.
        engine: has files hashed on other hosts, which see them under the same names; None: threads
            of this process do.
    """
    if isinstance(source, Arrays):
        return _store_arrays(source, folder, array, forgotten)
    return _items(source, _elsewhere(engine, source, folder, marks) if engine else _by_threads(source, marks), marks)


CHUNK = 256
"""Files that a thread hashes before it asks for more."""
CHUNK_ELSEWHERE = 4096
"""Files of a piece."""
Hashed = list[tuple[File, Mark, str, int]]
"""Files with what tells whether each is as it was, its SHA-256, and its size."""


def _items(source: Files, chunks: Iterator[Hashed], marks: Marks | None) -> Iterator[Item]:
    for chunk in chunks:
        for file, mark, digest, length in chunk:
            if marks:
                marks.put(_name(source.root, file), mark, digest)
            row = file.place[0] if file.place else None
            yield Item(file.path, row, file.label, file.part, digest, length, file.group)


def _by_threads(source: Files, marks: Marks | None) -> Iterator[Hashed]:
    chunks = _chunks(source, marks, CHUNK)
    progress, done, size = Progress("fetch", sum(1 for _ in source.walk())), 0, 0
    with ThreadPoolExecutor(cores()) as pool:
        hashed = partial(_hash_chunk, Path(source.root))
        waiting = deque(pool.submit(hashed, chunk) for chunk in islice(chunks, 2 * cores()))
        while waiting:
            found = waiting.popleft().result()
            yield found
            done, size = done + len(found), size + sum(length for *_, length in found)
            progress.update(done, f"{done} files, {size / 1e6:.0f} MB")
            waiting.extend(pool.submit(hashed, chunk) for chunk in islice(chunks, 1))


def _elsewhere(engine: Engine, source: Files, folder: Path, marks: Marks | None) -> Iterator[Hashed]:
    """Hash on other hosts; what is hashed when the driver ends is kept for the next one."""
    kept = (marks.path.with_suffix(".hashed") if marks else folder / "hashed").absolute()
    kept.mkdir(parents=True, exist_ok=True)
    work, chunks = partial(_hash_and_keep, kept, Path(source.root).absolute()), _chunks(source, marks, CHUNK_ELSEWHERE)
    with closing(spread(engine, "fetch", kept / "files", work, chunks)) as hashed:
        yield from hashed
    shutil.rmtree(kept)


def _hash_and_keep(folder: Path, root: Path, chunk: list[tuple[File, Mark, str | None]]) -> Hashed:
    """Hash files unless the same ones were, which their marks tell."""
    told = "".join(repr(one[:2]) for one in chunk)
    path = folder / hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()
    if path.exists():
        found: Hashed = pickle.loads(path.read_bytes())
        return found
    found = _hash_chunk(root, chunk)
    if all(mark.inode for _, mark, _, _ in found):
        with whole_file(path, shared=True) as part:
            part.write_bytes(pickle.dumps(found))
    return found


def _chunks(source: Files, marks: Marks | None, size: int) -> Iterator[list[tuple[File, Mark, str | None]]]:
    files, now = source.walk(), time.time_ns()
    while chunk := [(file, *_known(source.root, file, marks, now)) for file in islice(files, size)]:
        yield chunk


def _name(root: str, file: File) -> bytes:
    return f"{root}\0{file.path}\0{file.place}".encode(errors="surrogateescape")


def _known(root: str, file: File, marks: Marks | None, now: int) -> tuple[Mark, str | None]:
    mark = mark_of(f"{root}/{file.tar or file.path}", now)
    return mark, marks.get(_name(root, file), mark) if marks else None


def _hash_chunk(root: Path, chunk: list[tuple[File, Mark, str | None]]) -> Hashed:
    found = []
    for file, mark, known in chunk:
        if known is None:
            digest, size = _hash_file(root, file)
        else:
            digest, size = known, file.place[1] if file.place else mark.size
        found.append((file, mark if digest else Mark(), digest, size))
    return found


def _hash_file(root: Path, file: File) -> tuple[str, int]:
    try:
        if file.place is not None:
            return _hash_member(root / file.tar, *file.place), file.place[1]
        with (root / file.path).open("rb", buffering=0) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return digest, opened.tell()
    except OSError:  # a broken link, no permission: sharding lists it with the reason
        return "", 0


def _hash_member(tar: Path, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    with tar.open("rb") as file:
        file.seek(offset)
        while size and (block := file.read(min(size, 2**20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _store_arrays(source: Arrays, folder: Path, array: str, forgotten: Set[str]) -> Iterator[Item]:
    count = sum(len(images) for images, _, _ in source.parts)
    shape = (count, *source.parts[0][0].shape[1:])
    require_free(folder, int(np.prod(shape)) + 200 * count, "fetching the images")
    progress, row = Progress("fetch", count), 0
    with (folder / array).open("wb") as stored:
        npy.begin(stored, np.uint8, shape)
        for images, labels, part in source.parts:
            for start in range(0, len(images), 1024):
                chunk = np.ascontiguousarray(images[start : start + 1024], dtype=np.uint8)
                digests = [hashlib.sha256(image).hexdigest() for image in chunk]
                if out := [offset for offset, digest in enumerate(digests) if digest in forgotten]:
                    chunk = chunk.copy()  # not into the source
                    chunk[out] = 0
                stored.write(chunk.data)
                for offset, digest in enumerate(digests):
                    label = "" if labels is None else source.classes[labels[start + offset]]
                    yield Item(array, row, label, part, digest, chunk[offset].nbytes)
                    row += 1
                progress.update(row, f"{row} images stored")
