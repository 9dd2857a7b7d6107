"""A list of image files: CSV or Parquet with the columns path and, optionally, label."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.source import Files, Found


def find(settings: Fetch) -> Files:
    """Find the files that the list names."""
    path = Path(settings.path)
    if not path.is_file():
        raise MocoError(f"fetch.path = {str(path)!r}: no such file; source list needs a CSV or Parquet file")
    rows = _parquet_rows if path.suffix.lower() in {".parquet", ".pq"} else _csv_rows

    def walk() -> Found:
        for where, name, label in rows(path):
            if not name:
                raise MocoError(f"{path}, {where}: the column path is empty; fill it or remove the row")
            if not os.path.lexists(path.parent / name):
                raise MocoError(
                    f"{path}, {where}: no such file {name!r} (below {path.parent}); correct or remove the row"
                )
            yield name, label, "all"

    return Files(str(path.parent), walk)


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _require_path_column(path, list(reader.fieldnames or []))
            for row in reader:
                yield f"line {reader.line_num}", row["path"] or "", row.get("label") or ""
    except (UnicodeDecodeError, csv.Error) as error:
        raise MocoError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one, or as Parquet") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, str]]:
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
    _require_path_column(path, file.schema_arrow.names)
    columns = [name for name in ("path", "label") if name in file.schema_arrow.names]
    number = 0
    for batch in file.iter_batches(columns=columns):
        for row in batch.to_pylist():
            number += 1
            name, label = row["path"], row.get("label")
            yield f"row {number}", "" if name is None else str(name), "" if label is None else str(label)


def _require_path_column(path: Path, columns: list[str]) -> None:
    if "path" not in columns:
        found = ", ".join(columns) or "none"
        raise MocoError(
            f"{path}, line 1: no column path (columns: {found}); name the columns path and, optionally, label"
        )
