"""Curves on disk: CSV rows in order, each step once, whatever was stopped and resumed."""

import csv
from pathlib import Path

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
        """The newest row, if any."""
        rows = read_rows(self.path)
        return rows[-1] if rows else None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text; none where there is no file. A row cut short by a crash is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
