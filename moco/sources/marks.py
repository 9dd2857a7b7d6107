"""What of a file tells that it is the one that was hashed: size, time of change, inode.

A file that has the same three as before costs one `stat`. One that was changed within two seconds
before it was looked at is hashed again the next time: a further change could leave the same time.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from moco.sources.source import Arrays, File, Files

TOO_NEW = 2 * 10**9
"""Nanoseconds: the coarsest clock of a file system in use (FAT)."""


class Mark(NamedTuple):
    """Of a file; all 0 where it cannot be read, or is too new."""

    size: int = 0
    changed: int = 0
    """Nanoseconds since 1970."""
    inode: int = 0


def mark_of(path: str, now: int) -> Mark:
    """Look at a file.

    Args:
        path: of the file.
        now: nanoseconds since 1970 when looking began.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a million times; making a Path takes longer
    except OSError:
        return Mark()
    return Mark(found.st_size, found.st_mtime_ns, found.st_ino) if found.st_mtime_ns < now - TOO_NEW else Mark()


def look(source: Files | Arrays, about: str) -> str | None:
    """Name the state of a source by its files' names and marks, without reading them.

    Args:
        source: it.
        about: what else decides the result.

    Returns:
        64 hexadecimal digits; None if the marks do not tell: a file is new, or cannot be read.
    """
    now, digest, last = time.time_ns(), hashlib.sha256(about.encode()), ("", Mark())
    if isinstance(source, Arrays):
        files: Iterator[File] = (File(str(path)) for path in source.files)
        if not source.files:
            return None
    else:
        files = source.walk()
    above = "" if source.root is None else f"{source.root}/"
    for file in files:
        name = file.tar or file.path
        if name != last[0]:
            last = name, mark_of(above + name, now)
        if not last[1].inode:
            return None
        digest.update(repr((file, last[1])).encode(errors="surrogateescape"))
    return digest.hexdigest()


class Marks:
    """The marks and hashes of the files that were hashed, in a file of their own.

    A damaged or missing file holds none. Used as a context; what `put` was told replaces the file
    when it ends without an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part.unlink(missing_ok=True)
        self._new = _connect(self._part)
        self._old = _connect(self.path) if self.path.is_file() else None
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._old:
            self._old.close()
        if error is None:
            self._new.execute("COMMIT")
        self._new.close()
        if error is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)

    def get(self, name: bytes, mark: Mark) -> str | None:
        """Give the SHA-256 that a file with this name and mark had; None if that is not known."""
        if self._old is None or not mark.inode:
            return None
        try:
            found = self._old.execute("SELECT * FROM marks WHERE name = ?", (name,)).fetchone()
        except sqlite3.Error:
            return None
        return found[4] if found and found[1:4] == mark else None

    def put(self, name: bytes, mark: Mark, sha256: str) -> None:
        """Remember a file."""
        if mark.inode:
            self._new.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)", (name, *mark, sha256))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    if path.name.endswith(".part"):
        connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            " CREATE TABLE marks (name PRIMARY KEY, size, changed, inode, sha256) WITHOUT ROWID; BEGIN"
        )
    return connection
