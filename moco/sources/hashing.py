"""The images of a source as hashed items; arrays are stored on the way."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from moco.files import file_sha256, require_free
from moco.progress import Progress
from moco.sources.manifest import ARRAY_FILE, Item
from moco.sources.source import Arrays, Files


def stream(source: Files | Arrays, folder: Path) -> Iterator[Item]:
    """Hash every image of a source, and write arrays to `folder`/images.npy."""
    return _hash_files(source) if isinstance(source, Files) else _store_arrays(source, folder)


def _hash_files(source: Files) -> Iterator[Item]:
    files, root = source.walk(), Path(source.root)
    progress, done, size = Progress("fetch", sum(1 for _ in source.walk())), 0, 0
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(files, 1024)):
            for (path, label, part), (digest, length) in zip(
                chunk, pool.map(lambda found: _hash_file(root / found[0]), chunk), strict=True
            ):
                yield Item(path, None, label, part, digest, length)
                done, size = done + 1, size + length
            progress.update(done, f"{done} files hashed, {size / 1e6:.0f} MB")


def _hash_file(path: Path) -> tuple[str, int]:
    try:
        return file_sha256(path), path.stat().st_size
    except OSError:  # a broken link, no permission: sharding lists it with the reason
        return "", 0


def _store_arrays(source: Arrays, folder: Path) -> Iterator[Item]:
    count = sum(len(images) for images, _, _ in source.parts)
    shape = (count, *source.parts[0][0].shape[1:])
    require_free(folder, int(np.prod(shape)) + 200 * count, "fetching the images")
    stored = np.lib.format.open_memmap(folder / ARRAY_FILE, mode="w+", dtype=np.uint8, shape=shape)
    progress, row = Progress("fetch", count), 0
    for images, labels, part in source.parts:
        for start in range(0, len(images), 1024):
            chunk = np.ascontiguousarray(images[start : start + 1024])
            stored[row : row + len(chunk)] = chunk
            for offset, image in enumerate(chunk):
                label = "" if labels is None else source.classes[labels[start + offset]]
                yield Item(ARRAY_FILE, row, label, part, hashlib.sha256(image).hexdigest(), image.nbytes)
                row += 1
            progress.update(row, f"{row} images stored")
    stored.flush()
