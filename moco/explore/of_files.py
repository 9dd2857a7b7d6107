"""Images of any folder, list or tar, and those of a table that `moco embed` wrote."""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moco import npy
from moco.encoders.frozen import FrozenEncoder
from moco.errors import MocoError
from moco.evaluation.embed import embed_files
from moco.evaluation.inputs import Image, Skipped
from moco.explore.images import Explored, Group
from moco.features.extract import sample_indices
from moco.features.neighbors import Features
from moco.features.usable import OF_A_FILE, require_finite
from moco.images.decode import Pixels, UndecodableError, decode

TABLES = (".parquet", ".npy")
ROWS = 4096
"""Rows of a table that are read at a time."""
_PIECES = re.compile(r"piece-\d{5}-of-\d{5}\.parquet")


def of_images(what: str, images: Sequence[Image], encoder: FrozenEncoder, skipped: Skipped, most: int) -> Explored:
    """Encode images, or a seeded sample of them.

    The label of an image is the first folder of its name.

    Args:
        what: they are, for the title.
        images: of `moco.evaluation.inputs.find_images`.
        encoder: frozen.
        skipped: is called with the place of each that is not readable, and the reason.
        most: images at most.
    """
    chosen = [images[row] for row in sample_indices(len(images), most, 0)]
    parts = list(embed_files(encoder, chosen, skipped))
    left = iter(chosen)
    there = [next(image for image in left if image.name == name) for part in parts for name in part.names]
    features = np.concatenate([part.features for part in parts]) if parts else np.zeros((0, 1), dtype=np.float32)
    count = len(images) if len(chosen) < len(images) else len(there)  # what is no image is no part of a sample
    return _explored(what, features, there, count)


def of_table(path: Path, folder: Path, most: int) -> Explored:
    """Read the features that `moco embed` wrote, or a seeded sample of them.

    Args:
        path: .parquet, .csv, .npy beside its .txt, or a folder of pieces.
        folder: where the table's paths begin; images that are not there have no thumbnail.
        most: images at most.

    Raises:
        MocoError: it is no such table, or its features are not finite.
    """
    try:
        count = _count(path)
        chosen = sample_indices(count, most, 0)
        names, parts, before = list[str](), list[Features](), 0
        for listed, features in _batches(path):
            mine = chosen[(chosen >= before) & (chosen < before + len(listed))] - before
            names += [listed[row] for row in mine]
            parts.append(features[mine])
            before += len(listed)
        features = np.concatenate(parts)
        if features.ndim != 2 or features.dtype != np.float32:
            raise ValueError(f"its features are {features.dtype} {features.shape}")
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise MocoError(f"{path}: no table of `moco embed` ({error}); write it again") from None
    require_finite(features, str(path), OF_A_FILE)
    images = [Image(name, folder / name) for name in names]
    return _explored(str(path), features, images, count)


def is_table(path: Path) -> bool:
    """Tell whether a path is a table of features, and not images, or a list of them."""
    if path.is_dir():
        return any(_PIECES.fullmatch(file.name) for file in path.iterdir())
    if path.suffix == ".csv" and path.is_file():
        with path.open("rb") as file:
            return file.readline(1000).startswith(b"path,f0")
    return path.suffix in TABLES


def _explored(what: str, features: Features, images: list[Image], count: int) -> Explored:
    def read(i: int) -> Pixels | None:
        try:
            return decode(images[i].read())
        except (OSError, UndecodableError):
            return None

    own = np.array([image.size is None and image.file.is_file() for image in images], dtype=bool)
    names = [
        str(image.file) if mine else image.place if image.size else image.name
        for image, mine in zip(images, own, strict=True)
    ]
    folders = [image.name.partition("/")[0] if "/" in image.name.strip("/") else "" for image in images]
    return Explored(what, features, read, names, own, groups={"class": Group.of(folders)}, all=count)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if _PIECES.fullmatch(file.name)) if path.is_dir() else [path]


def _count(path: Path) -> int:
    """Count the rows of a table."""
    if path.is_dir() or path.suffix == ".parquet":
        return sum(_parquet(file).metadata.num_rows for file in _files(path))
    return sum(len(names) for names, _ in _batches(path))


def _batches(path: Path) -> Iterator[tuple[list[str], Features]]:
    """Stream a table's names and features, float32, so that it may be larger than the memory."""
    if path.suffix == ".npy":
        features = npy.mapped(path)
        names = path.with_suffix(".txt").read_text(encoding="utf-8").split("\n")[:-1]
        if features is None or len(names) != len(features):
            raise ValueError("damaged, or its .txt is of another one")
        yield names, features
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            next(reader, None)
            while rows := list(islice(reader, ROWS)):
                yield [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=np.float32)
    else:
        for piece in _files(path):
            for batch in _parquet(piece).iter_batches(ROWS, columns=["path", "features"]):
                values = batch["features"].flatten().to_numpy()
                yield batch["path"].to_pylist(), values.reshape(batch.num_rows, -1)


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        kind = file.schema_arrow.field("features").type
    except pa.ArrowException as error:
        raise ValueError(error) from None
    if not pa.types.is_fixed_size_list(kind):
        raise ValueError(f"its features are {kind}")
    return file
