"""Features of any folder of images, streamed to a Parquet or NumPy file."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.encoders.frozen import EncoderSpec, FrozenEncoder
from moco.errors import MocoError
from moco.features.extract import Features
from moco.features.placing import fetched
from moco.files import whole_file
from moco.images.decode import Pixels, UndecodableError, decode
from moco.images.views import center_view
from moco.progress import Progress

BATCH = 256


@dataclass(frozen=True)
class Embedded:
    """Some images: paths relative to the folder, with "/" between parts, and features N x D."""

    paths: list[str]
    features: Features


@dataclass
class Count:
    """Counts images as they are embedded, shows progress, and names unreadable files on stderr.

    Attributes:
        progress: in files.
        images: embedded.
        skipped: files that are not readable images.
    """

    progress: Progress
    images: int = 0
    skipped: int = 0

    def embed(self, encoder: FrozenEncoder, folder: Path, files: list[Path]) -> Iterator[Embedded]:
        """Encode files as `embed_files` does."""
        for batch in embed_files(encoder, folder, files, self._skip):
            yield batch
            self.images += len(batch.paths)
            self.progress.update(self.images + self.skipped, f"{self.images} images")

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped += 1
        print(f"skipped {path}: {reason}", file=sys.stderr)


def embed_folder(encoder: FrozenEncoder, folder: Path, output: Path) -> tuple[int, int]:
    """Write the features of every image below a folder; name unreadable files on stderr.

    Args:
        encoder: frozen.
        folder: of images, at any depth; hidden files and folders are left out.
        output: a .parquet or .npy file, as in `write_features`.

    Returns:
        Images written, files skipped.

    Raises:
        MocoError: there is no such folder, no image in it, or the output cannot be written.
    """
    files = find_files(folder)
    count = Count(Progress("embed", len(files)))
    return write_features(output, count.embed(encoder, folder, files), encoder.spec.feature_dim), count.skipped


def find_files(folder: Path) -> list[Path]:
    """List every file below a folder, sorted, without hidden files and folders.

    Raises:
        MocoError: there is no such folder, or no file in it.
    """
    if not folder.is_dir():
        raise MocoError(f"{folder}: no such folder; give a folder of images")
    files = [path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder))]
    if not files:
        raise MocoError(f"{folder}: holds no file; give a folder of images")
    return sorted(files)


def embed_files(
    encoder: FrozenEncoder, folder: Path, files: list[Path], skipped: Callable[[Path, str], None]
) -> Iterator[Embedded]:
    """Encode the center views of image files, a batch at a time.

    Args:
        encoder: frozen.
        folder: that the paths are relative to.
        files: of any image format.
        skipped: called with each file that is not a readable image, and the reason.
    """
    names: deque[list[str]] = deque()

    def view(path: Path) -> Pixels | str:
        return _view(path, encoder.spec)

    def launched(threads: ThreadPoolExecutor) -> Iterator[Tensor]:
        for first in range(0, len(files), BATCH):
            batch = files[first : first + BATCH]
            paths, views = [], []
            for path, result in zip(batch, threads.map(view, batch), strict=True):
                if isinstance(result, str):
                    skipped(path, result)
                else:
                    paths.append(path.relative_to(folder).as_posix())
                    views.append(result)
            if views:
                names.append(paths)
                yield encoder.launch(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2))

    with ThreadPoolExecutor() as threads:
        for features in fetched(launched(threads)):
            yield Embedded(names.popleft(), features.numpy())


def write_features(path: Path, batches: Iterator[Embedded], feature_dim: int) -> int:
    """Write features as a whole or not at all, a batch at a time.

    `.parquet`: columns path (string) and features (fixed-size list of D float32). `.npy`: float32
    N x D, and beside it a `.txt` with the path of each row.

    Returns:
        The number of images written.

    Raises:
        MocoError: another suffix, no folder to write into, or not one readable image.
    """
    writers = {".parquet": write_parquet, ".npy": _write_npy}
    if path.suffix not in writers:
        raise MocoError(f"{path}: cannot write {path.suffix or 'no suffix'!r}; name the output .parquet or .npy")
    if not path.parent.is_dir():
        raise MocoError(f"{path.parent}: no such folder; make it first, or write elsewhere with --output")
    with whole_file(path) as part:
        try:
            written = writers[path.suffix](part, batches, feature_dim)
            if not written:
                raise MocoError("not one of the files is a readable image; nothing was written")
            if path.suffix == ".npy":
                _paths_file(part).replace(_paths_file(path))
        finally:
            _paths_file(part).unlink(missing_ok=True)
    return written


def write_parquet(
    path: Path, batches: Iterator[Embedded], feature_dim: int, metadata: dict[bytes, bytes] | None = None
) -> int:
    """Write features to a Parquet file with some metadata; the number of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.float32(), feature_dim)
    written = 0
    with pq.ParquetWriter(path, pa.schema([("path", pa.string()), ("features", kind)], metadata)) as writer:
        for batch in batches:
            features = pa.FixedSizeListArray.from_arrays(batch.features.ravel(), type=kind)
            writer.write_batch(pa.record_batch([pa.array(batch.paths), features], schema=writer.schema))
            written += len(batch.paths)
    return written


def _write_npy(path: Path, batches: Iterator[Embedded], feature_dim: int) -> int:
    """Write row by row; the padded header is rewritten at the end, when the rows are counted."""
    written = 0
    with path.open("wb") as file, _paths_file(path).open("w", encoding="utf-8") as names:
        _npy_header(file, written, feature_dim)
        for batch in batches:
            file.write(np.ascontiguousarray(batch.features, dtype="<f4").tobytes())
            names.writelines(f"{name}\n" for name in batch.paths)
            written += len(batch.paths)
        file.seek(0)
        _npy_header(file, written, feature_dim)
    return written


def _npy_header(file: object, rows: int, columns: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]


def _paths_file(path: Path) -> Path:
    return path.with_suffix(".txt")


def _view(path: Path, spec: EncoderSpec) -> NDArray[np.uint8] | str:
    try:
        return center_view(decode(path.read_bytes()), spec.image_size, spec.eval_crop_ratio)
    except UndecodableError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
