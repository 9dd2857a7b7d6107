"""A list of image files: CSV or Parquet with a column path and, optionally, label, split, group."""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from moco.config import Fetch, Split
from moco.errors import MocoError
from moco.sources.folder import SPLIT_OF
from moco.sources.source import File, Files, part_of
from moco.text import printable

COLUMNS = {"path": ("path",), "label": ("label", "class"), "split": ("split",), "group": ("group",)}
"""Names of the columns, in lower case and without spaces around them; the first that is there."""
NO_VALUE = frozenset({"", "nan", "<na>"})
"""In lower case: what programs write where no label or group is; `none` may be a class."""
DELIMITERS = ",;\t"


class _Row(NamedTuple):
    where: str
    values: dict[str, Any]


@dataclass(frozen=True)
class _Table:
    """A list: the columns that are read, those that are not, and its rows."""

    columns: dict[str, str]
    unused: list[str]
    rows: Iterator[_Row]


def find(settings: Fetch) -> Files:
    """Find the files that the list names."""
    path = Path(settings.path)
    if not path.is_file():
        raise MocoError(f"fetch.path = {str(path)!r}: no such file; source list needs a CSV or Parquet file")
    read = _parquet if path.suffix.lower() in {".parquet", ".pq"} else _csv
    table = read(path)
    own: set[Split] = set()
    if "split" in table.columns:
        own = {_split(path, row) for row in table.rows} - {"train"}
    notes = [
        f"{use}s are those of the column {table.columns[use].strip()}"
        for use in ("split", "group")
        if use in table.columns
    ]
    if table.columns.get("label", "label").strip().lower() != "label":
        notes.append(f"labels are those of the column {table.columns['label'].strip()}")
    if table.unused:
        notes.append(f"columns of the list that are not used: {', '.join(table.unused)}")

    def walk() -> Iterator[File]:
        for row in read(path).rows:
            name = _text(row.values["path"])
            if not name.strip():
                raise MocoError(f"{path}, {row.where}: the column path is empty; fill it or remove the row")
            if not os.path.lexists(path.parent / name):
                name = name.strip()
            if not os.path.lexists(path.parent / name):
                raise MocoError(
                    f"{path}, {row.where}: no such file {name!r} (below {path.parent}); correct or remove the row"
                )
            part = part_of(_split(path, row), own) if "split" in row.values else "all"
            yield File(name, _label(path, row), part, given(_text(row.values.get("group"))))

    return Files(str(path.parent), walk, own=frozenset(own), notes=notes)


def _label(path: Path, row: _Row) -> str:
    value = row.values.get("label")
    if isinstance(value, list | tuple | dict):
        raise MocoError(
            f"{path}, {row.where}: the label is {value!r:.60}; an image has one label: give one name or number"
        )
    return given(_text(value))


def given(text: str) -> str:
    """Give a label or group without spaces around it; empty if it only says that there is none."""
    text = text.strip()
    return "" if text.lower() in NO_VALUE else text


def _split(path: Path, row: _Row) -> Split:
    value = _text(row.values["split"]).strip()
    split = SPLIT_OF.get(value.lower())
    if split is None:
        raise MocoError(f"{path}, {row.where}: the split is {value!r}; write train, val or test, or rename the column")
    return split  # type: ignore[return-value]


def _text(value: Any) -> str:
    """Give a value as text; a whole number as such, since a gap makes Parquet's numbers floats."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _columns(path: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Find the list's own name of each column that is read, and the names of the others."""
    names = list(names)
    plain = {name.strip().lower(): name for name in reversed(names)}
    found = {
        use: next(plain[name] for name in known if name in plain)
        for use, known in COLUMNS.items()
        if plain.keys() & known
    }
    if "path" not in found:
        raise MocoError(
            f"{path}, line 1: no column path (columns: {printable(', '.join(names)) or 'none'}); name the columns path and,"
            " optionally, label, split and group"
        )
    return found, [name.strip() for name in names if name not in found.values()]


def _csv(path: Path) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = file.readline()
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None
    delimiter = next((mark for mark in DELIMITERS if _has_path(lines, mark)), ",")
    columns, unused = _columns(path, next(csv.reader([lines], delimiter=delimiter), []))

    def rows() -> Iterator[_Row]:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, delimiter=delimiter)
                for row in reader:
                    yield _Row(f"line {reader.line_num}", {use: row[name] or "" for use, name in columns.items()})
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(path, error) from None

    return _Table(columns, unused, rows())


def _has_path(line: str, delimiter: str) -> bool:
    return any(name.strip().lower() == "path" for row in csv.reader([line], delimiter=delimiter) for name in row)


def _unreadable(path: Path, error: Exception) -> MocoError:
    return MocoError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one, or as Parquet")


def _parquet(path: Path) -> _Table:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MocoError(
            f"{path}: reading Parquet needs pyarrow; `pip install pyarrow`, or save the list as CSV"
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise MocoError(f"{path}: not a Parquet file ({error}); write it again") from None
    columns, unused = _columns(path, file.schema_arrow.names)

    def rows() -> Iterator[_Row]:
        number = 0
        for batch in file.iter_batches(columns=list(columns.values())):
            for row in batch.to_pylist():
                number += 1
                yield _Row(f"row {number}", {use: row[name] for use, name in columns.items()})

    return _Table(columns, unused, rows())
