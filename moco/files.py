"""Files and folders that appear whole or not at all; locks, hashes, and room on disk."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moco.errors import MocoError

MARGIN = 64 * 10**6  # bytes left over: a file system filled to the brim fails in places far from here


def readable(size: float) -> str:
    """Write a number of bytes in the largest decimal unit that suits it: `3.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def require_free(path: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes are free where `path` is, or will be.

    Raises:
        MocoError: less is free; names `what` fills the disk, the need, what is free and the remedy.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + MARGIN:
        raise MocoError(
            f"{path}: {what} needs about {readable(needed + MARGIN)}, {readable(free)} are free there;"
            " free some space or work on a larger disk"
        )


@contextmanager
def whole_file(path: Path, *, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """Open a temporary path beside `path` that takes its name when the block ends without an error.

    A reader sees the old file or the new one, never a part. An error removes the temporary file.

    Args:
        path: the file; its folder exists.
        shared: whether several processes may write this file at once.
        durable: whether the bytes reach the disk before the name does, so that a crash loses
            neither file.
    """
    own = f".{os.getpid()}" if shared else ""
    part = path.with_name(f"{path.stem}{own}.part{path.suffix}")
    try:
        yield part
        if durable:
            _to_disk(part)
        part.replace(path)
        if durable:
            _to_disk(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 as a whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """Write JSON as a whole or not at all, the same bytes for the same values."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_folder(source: Path, target: Path) -> None:
    """Replace `target` by `source`: by rename, or by a copy and a rename across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(target.name + ".part")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        copy.rename(target)
        shutil.rmtree(source)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Open an empty temporary folder that replaces `path` when the block ends without an error.

    Raises:
        MocoError: the disk is full.
    """
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        move_folder(part, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MocoError(f"{part}: the disk is full; free some space and run the same command again") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of_files(paths: Iterable[Path], root: Path, suffixes: tuple[str, ...] = ()) -> str:
    """Hash of some files and of all files below some folders, with their names from `root`.

    16 hex digits.

    Args:
        paths: files and folders.
        root: where names start, so that the same files give the same hash in another place.
        suffixes: of the files that count; empty: all but compiled Python.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts and file.name.endswith(suffixes or ("",)):
                digest.update(f"{os.path.relpath(file, root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def exclusive(path: Path, folder: Path, patience: float, what: str = "is training this very run") -> Iterator[None]:
    """Hold a lock file, which names its holder.

    Args:
        path: the file; made if missing.
        folder: of the run, for the message.
        patience: seconds to wait for another holder.
        what: a holder does, for the message.

    Raises:
        MocoError: another process holds it and did not let go.
    """
    deadline = time.monotonic() + patience
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise MocoError(
                        f"{folder}: another process {what} ({file.read()}); wait for it, or stop it"
                    ) from None
                time.sleep(0.2)
            except OSError as error:  # some network file systems are mounted without locks
                print(
                    f"{folder} cannot be locked ({error.strerror}); see to it that no other process {what}", flush=True
                )
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
