"""Images as a person names them: files, folders, lists of files and WebDataset tars."""

import csv
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moco.errors import MocoError
from moco.images.decode import LARGEST_FILE, UndecodableError, read_encoded
from moco.sources.members import COMPRESSED, samples_of
from moco.sources.tree import LeftOut, walk_tree
from moco.text import one_line, utf8

LISTS = (".txt", ".csv", ".tsv")
Skipped = Callable[[str, str], None]
"""Is called with a place and the reason why no image of it is read."""


@dataclass
class Skips:
    """Names on stderr what is skipped, and counts it."""

    count: int = 0

    def __call__(self, place: str, reason: str) -> None:
        """Name one place."""
        self.count += 1
        print(one_line(f"skipped {place}: {reason}", 1000), file=sys.stderr)


class Image(NamedTuple):
    """One image, as bytes in a file.

    Attributes:
        name: that its features are stored under.
        file: holds the bytes.
        offset: of the first.
        size: their number; None: up to the file's end.
    """

    name: str
    file: Path
    offset: int = 0
    size: int | None = None

    @property
    def place(self) -> str:
        """Name the file, and the sample in it, for messages."""
        return str(self.file) if self.size is None else f"{self.name} in {self.file}"

    def bytes_there(self) -> int | None:
        """Count the bytes; None where there is no such file."""
        if self.size is not None:
            return self.size
        try:
            return self.file.stat().st_size
        except OSError:
            return None

    def read(self) -> bytes:
        """Read the bytes.

        Raises:
            OSError: the file cannot be read.
            UndecodableError: they are more than an image may have.
        """
        if self.size is None:
            return read_encoded(self.file)
        if self.size > LARGEST_FILE:
            raise UndecodableError(f"larger than {LARGEST_FILE // 10**6} MB")
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def find_images(arguments: Sequence[Path], skipped: Skipped) -> list[Image]:
    """Find the images that arguments name, in their order.

    - a folder: every file below it, sorted, without hidden files and folders
    - `.txt`: a list, a path on each line; `.csv`, `.tsv`: the column `path`, or the only column;
      paths are relative to the list's folder
    - `.tar`, here, in a folder or in a list: a WebDataset tar, one image of each sample (`jpg`,
      `png`, …; the first if it has several)
    - any other file: an image

    Names are relative to the argument if there is one, else they begin with the argument. Those of
    a list are as the list has them, and a sample's is its key.

    Args:
        arguments: paths.
        skipped: is called with each sample without an image.

    Raises:
        MocoError: one is not there, cannot be read, or holds nothing.
    """
    found: list[Image] = []
    for argument in arguments:
        alone = len(arguments) == 1
        if argument.is_dir():
            files = [(path, path.relative_to(argument) if alone else path) for path in _files(argument, skipped)]
            for path, name in files:
                found += _images(path, name.as_posix(), skipped)
        elif not argument.exists():
            hint = "; the shell found nothing that matches" if re.search(r"[*?\[]", argument.name) else ""
            raise MocoError(
                f"{argument}: no such file or folder{hint}; give images, folders, lists (.txt, .csv) or tars"
            )
        elif argument.suffix.lower() in COMPRESSED:
            raise MocoError(f"{argument}: is compressed; unpack it, or write the tar without compression")
        elif argument.suffix.lower() in LISTS:
            for line in _listed(argument):
                found += _images(argument.parent / line, line, skipped)
        elif argument.suffix.lower() == ".tar":
            found += _members(argument, "" if alone else f"{argument.as_posix()}/", skipped)
        else:
            found.append(Image(utf8(argument.name if alone else argument.as_posix()), argument))
    return found


def _images(path: Path, name: str, skipped: Skipped) -> Iterator[Image]:
    """Give the image of a file, or those in a tar."""
    if path.suffix.lower() == ".tar" and path.is_file():
        yield from _members(path, f"{name}/", skipped)
    else:
        yield Image(utf8(name), path)


def _files(folder: Path, skipped: Skipped) -> list[Path]:
    left_out = LeftOut()
    files = sorted(folder / name for name in walk_tree(folder, left_out) if (folder / name).is_file())
    if left_out:
        skipped(str(folder), f"left out what systems put there: {left_out}")
    if not files:
        raise MocoError(f"{folder}: holds no file; give a folder of images")
    return files


def _listed(path: Path) -> list[str]:
    """Read the paths in a list."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".txt":
                names = [line.rstrip("\r\n") for line in file]
            else:
                names = _column(path, list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MocoError(f"{path}: not a list in UTF-8 ({error}); save it as one") from None
    except OSError as error:
        raise MocoError(f"{path}: cannot be read ({error.strerror})") from None
    names = [name for name in names if name.strip()]
    if not names:
        raise MocoError(f"{path}: lists no path; write one on each line, or in a column path")
    return names


def _column(path: Path, rows: list[list[str]]) -> list[str]:
    rows = [row for row in rows if row]
    if rows and "path" in rows[0]:
        place = rows[0].index("path")
        return [row[place] if place < len(row) else "" for row in rows[1:]]
    if any(len(row) > 1 for row in rows):
        raise MocoError(f"{path}: no column path (columns: {', '.join(rows[0])}); name one path, or list paths alone")
    return [row[0] for row in rows]


def _members(path: Path, before: str, skipped: Skipped) -> Iterator[Image]:
    """Find the image of each sample in a tar."""
    for sample in samples_of(path):
        if sample.image is None:
            skipped(f"{sample.key} in {path}", f"no image among its fields {', '.join(sample.fields)}")
        else:
            yield Image(utf8(before + sample.key), path, *sample.fields[sample.image])
