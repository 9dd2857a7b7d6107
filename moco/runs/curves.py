"""Curves on disk: CSV rows in order, each step once, whatever was stopped and resumed."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from moco.errors import MocoError
from moco.files import whole_file


class Curve:
    """A CSV file that grows by rows.

    Args:
        path: the file; made with its header if missing.
        columns: names; the first counts upwards.
        upto: rows whose first column is above this are dropped: they will come again.
    """

    def __init__(self, path: Path, columns: list[str], upto: int) -> None:
        self.path, self.columns = path, columns
        kept = [row for row in read_rows(path) if int(row[columns[0]]) <= upto]
        with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)

    def add(self, row: dict[str, float | int]) -> None:
        """Append one row; numbers keep every digit, so that equal runs give equal files."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def last(self) -> dict[str, str] | None:
        """Give the newest row, if any."""
        rows = read_rows(self.path)
        return rows[-1] if rows else None


class Tail:
    """The new rows of a curve that another process writes.

    Args:
        path: the file, which may not be there yet.

    Attributes:
        begun_again: how often the file was written from its start, as a resumed run does.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.begun_again = path, 0
        self._inode, self._offset, self._columns = 0, 0, list[str]()

    def rows(self) -> list[dict[str, str]]:
        """Read what is new; all of a file that was written from its start."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return []
        if state.st_ino != self._inode or state.st_size < self._offset:
            self.begun_again += self._inode != 0
            self._inode, self._offset, self._columns = state.st_ino, 0, []
        if state.st_size == self._offset:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]  # the rest of the last row comes later
        self._offset += len(whole)
        rows = list(csv.reader(whole.decode("utf-8").splitlines()))
        if rows and not self._columns:
            self._columns = rows.pop(0)
        return [dict(zip(self._columns, row, strict=True)) for row in rows if len(row) == len(self._columns)]


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file as text; a row cut short by a crash is left out.

    Args:
        path: the file; one that is missing has no rows, unless columns are asked for.
        columns: those that it must have.

    Raises:
        MocoError: the file lacks a column, or is missing itself.
    """
    if not path.exists():
        if columns:
            raise MocoError(f"{path}: no such file; run that stage first (`dvc repro` runs all)")
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise MocoError(f"{path}: lacks the column {column}; run that stage again")
        return [row for row in reader if None not in row.values()]


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Read the cells of a row as numbers; an empty one is NaN."""
    return {name: float(cell) if cell else math.nan for name, cell in row.items()}
