"""Files and folders that appear whole or not at all; locks, hashes, and room on disk."""

import csv
import ctypes
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from moco.errors import MocoError

CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems say that have no fsync, such as some of FUSE."""
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2."""
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
def whole_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Open a temporary path beside `path` that takes its name when the block ends without an error.

    A reader sees the old file or the new one, never a part, and another name of the old one (a hard
    link into DVC's cache) keeps its content. The bytes reach the disk before the name does: after a
    power failure there is the old file or the new one. An error removes the temporary file.

    Args:
        path: the file; its folder exists.
        shared: whether several processes, here or on other hosts, may write this file at once.

    Raises:
        OSError: the file cannot be written; its `filename` says which.
    """
    part = part_of(path, f".{os.uname().nodename}.{os.getpid()}.{threading.get_ident()}" if shared else "")
    try:
        yield part
        to_disk(part)
        part.replace(path)
        to_disk(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write names no file
        raise
    finally:
        with suppress(OSError):  # a disk that failed; the first error counts
            part.unlink(missing_ok=True)


def part_of(path: Path, mark: str = "") -> Path:
    """Give the temporary name of a file, which no file system finds too long if the file's fits."""
    room = 255 - len(os.fsencode(f"{mark}.part{path.suffix}"))
    stem = os.fsdecode(os.fsencode(path.stem)[:room])
    return path.with_name(f"{stem}{mark}.part{path.suffix}")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes, whole or not at all; `target` is never written into."""
    with whole_file(target) as part:
        shutil.copyfile(source, part)


def link_file(source: Path, target: Path) -> None:
    """Give an unchanging file a second name, or copy it where the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        copy_file(source, target)


def move_file(source: Path, target: Path) -> None:
    """Move a file, whole or not at all; across file systems by a copy."""
    to_disk(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_file(source, target)
        source.unlink()
    to_disk(target.parent)


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


class _Lines:
    """Ends each row that a csv writer made with a line feed alone."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> None:
        self.file.write(row.removesuffix("\r\n") + "\n")


def csv_writer(file: TextIO) -> Any:
    """Make a csv writer whose rows end with a line feed and come back as they were.

    Told to end rows so, Python's own leaves a carriage return in a name bare, and no reader gives
    that name back.
    """
    return csv.writer(_Lines(file), lineterminator="\r\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file as a whole or not at all; any name comes back byte for byte."""
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv_writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def read_note(path: Path) -> dict[str, Any]:
    """Read what a run wrote down for itself with `write_json`; a damaged note is empty."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def to_disk(path: Path) -> None:
    """Have a file, or the names in a folder, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def move_folder(source: Path, target: Path) -> None:
    """Replace `target` by `source`: by rename, or by a copy and a rename across file systems.

    The old folder goes when the new one is whole, on the disk and on the same file system. Where
    the system cannot exchange two names in one step, that of `target` is free for an instant: a
    process that is killed just then leaves `NAME.old.part`, which `put_back` finds.

    Raises:
        OSError: there is no room, or no permission; both folders have their content.
    """
    target = target.resolve()  # a link to a larger disk stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    put_back(target)
    old, ready = (target.with_name(f"{target.name}{end}") for end in (".old.part", ".part"))
    for path in (*source.rglob("*"), source):
        to_disk(path)
    copied = source != ready and not _renamed(source, ready)
    if copied:
        try:
            copy_folder(source, ready)
        except OSError:
            shutil.rmtree(ready, ignore_errors=True)
            raise
    if not (target.exists() and _exchanged(ready, target)):
        _replace(ready, target, old, source)
    to_disk(target.parent)
    for leftover in (old, ready):
        shutil.rmtree(leftover, ignore_errors=True)
    if copied:
        shutil.rmtree(source)


def put_back(folder: Path) -> None:
    """Put a folder back that a process set aside, and was killed before another took its place."""
    folder = folder.resolve()
    old = folder.with_name(f"{folder.name}.old.part")
    if old.exists() and not folder.exists():
        old.rename(folder)


def after_a_kill(folder: Path) -> None:
    """Put a folder back that a killed process set aside, or remove what it left beside it."""
    put_back(folder)
    for end in (".old.part", ".part"):
        shutil.rmtree(folder.resolve().with_name(f"{folder.resolve().name}{end}"), ignore_errors=True)


def _replace(ready: Path, target: Path, old: Path, source: Path) -> None:
    """Rename `target` to `old` and `ready` to `target`; if that fails all is as it was."""
    if target.exists() and not _renamed(target, old):
        shutil.rmtree(target)
    try:
        ready.rename(target)
    except OSError:
        for moved, place in ((old, target), (ready, source)):
            if moved.exists() and not place.exists():
                moved.rename(place)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):  # no Linux, or an old one
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _renamed(source: Path, target: Path) -> bool:
    """Give a folder another name, replacing what has it; False across file systems."""
    shutil.rmtree(target, ignore_errors=True)
    try:
        source.rename(target)
        return True
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False


def copy_folder(source: Path, target: Path) -> None:
    """Copy files and folders into a folder, made if missing.

    Raises:
        OSError: the first that happens; shutil.copytree hides it in a list of texts.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_folder(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)
            to_disk(target / path.name)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Open an empty temporary folder that replaces `path` when the block ends without an error.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    path = path.resolve()  # a link to a larger disk stays one
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        move_folder(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
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
