"""Features of any images, streamed to a Parquet, NumPy or CSV file."""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco import npy
from moco.encoders.frozen import EncoderSpec, FrozenEncoder
from moco.errors import MocoError
from moco.evaluation.inputs import Image, Skipped, Skips
from moco.features.extract import Features
from moco.features.placing import fetched
from moco.features.usable import OF_A_FILE, require_finite
from moco.files import csv_writer, whole_file
from moco.images.decode import Pixels, UndecodableError, decoded
from moco.images.views import center_view
from moco.progress import Progress

BATCH = 256


@dataclass(frozen=True)
class Embedded:
    """Some images: names, and features N x D."""

    names: list[str]
    features: Features


@dataclass
class Count:
    """Counts images as they are embedded, shows progress, and names unreadable ones on stderr.

    Attributes:
        progress: in files.
        images: embedded.
        skips: those that are not readable.
    """

    progress: Progress
    images: int = 0
    skips: Skips = field(default_factory=Skips)

    def embed(self, encoder: FrozenEncoder, images: Sequence[Image]) -> Iterator[Embedded]:
        """Encode images as `embed_files` does."""
        for batch in embed_files(encoder, images, self.skips):
            yield batch
            self.images += len(batch.names)
            self.progress.update(self.images + self.skips.count, f"{self.images} images")


def embed_into(encoder: FrozenEncoder, images: Sequence[Image], output: Path) -> tuple[int, int]:
    """Write the features of images; name unreadable ones on stderr.

    Args:
        encoder: frozen.
        images: of `moco.evaluation.inputs.find_images`.
        output: a .parquet, .npy or .csv file, as in `write_features`.

    Returns:
        Images written, images skipped.

    Raises:
        MocoError: not one image can be read, the output cannot be written, or it is one of the
            files that are read.
    """
    count = Count(Progress("embed", len(images)))
    return write_features(output, count.embed(encoder, images), encoder.spec.feature_dim), count.skips.count


def embed_files(encoder: FrozenEncoder, images: Sequence[Image], skipped: Skipped) -> Iterator[Embedded]:
    """Encode the center views of image files, a batch at a time.

    Args:
        encoder: frozen.
        images: of any format.
        skipped: is called with the place of each that is not readable, and the reason.
    """
    names: deque[list[str]] = deque()

    def view(image: Image) -> Pixels | str:
        return _view(image, encoder.spec)

    def launched(threads: ThreadPoolExecutor) -> Iterator[Tensor]:
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            there, views = [], []
            for image, result in zip(batch, threads.map(view, batch), strict=True):
                if isinstance(result, str):
                    skipped(image.place, result)
                else:
                    there.append(image.name)
                    views.append(result)
            if views:
                names.append(there)
                yield encoder.launch(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2))

    with ThreadPoolExecutor() as threads:
        for features in fetched(launched(threads)):
            require_finite(features.numpy(), "embed", OF_A_FILE)
            yield Embedded(names.popleft(), features.numpy())


def check_output(output: Path, arguments: Sequence[Path]) -> None:
    """Refuse an output that would replace one of the files that are read, such as a list.

    Raises:
        MocoError: it would.
    """
    for written in (output, _names_file(output)) if output.suffix == ".npy" else (output,):
        if any(written.exists() and written.samefile(argument) for argument in arguments if argument.exists()):
            raise MocoError(f"{output}: would replace {written}, which is read; name another file with --output")


def write_features(path: Path, batches: Iterator[Embedded], feature_dim: int) -> int:
    """Write features as a whole or not at all, a batch at a time.

    `.parquet`: columns path (string) and features (fixed-size list of D float32). `.npy`: float32
    N x D, and beside it a `.txt` with the name of each row. `.csv`: columns path, f0 … f(D - 1),
    with nine digits, which are all that float32 has.

    Returns:
        The number of images written.

    Raises:
        MocoError: another suffix, no folder to write into, or not one readable image.
    """
    writers = {".parquet": write_parquet, ".npy": _write_npy, ".csv": _write_csv}
    if path.suffix not in writers:
        raise MocoError(f"{path}: cannot write {path.suffix or 'no suffix'!r}; name the output .parquet, .npy or .csv")
    if not path.parent.is_dir():
        raise MocoError(f"{path.parent}: no such folder; make it first, or write elsewhere with --output")
    with whole_file(path) as part:
        try:
            written = writers[path.suffix](part, batches, feature_dim)
            if not written:
                raise MocoError("not one of the files is a readable image; nothing was written")
            if path.suffix == ".npy":
                _names_file(part).replace(_names_file(path))
        finally:
            if path.suffix == ".npy":
                _names_file(part).unlink(missing_ok=True)
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
            writer.write_batch(pa.record_batch([pa.array(batch.names), features], schema=writer.schema))
            written += len(batch.names)
    return written


def _write_npy(path: Path, batches: Iterator[Embedded], feature_dim: int) -> int:
    """Write row by row; the padded header is rewritten at the end, when the rows are counted."""
    written = 0
    with path.open("wb") as file, _names_file(path).open("w", encoding="utf-8") as names:
        npy.begin(file, np.float32, (0, feature_dim))
        for batch in batches:
            file.write(np.ascontiguousarray(batch.features, dtype=np.float32).data)
            names.writelines(f"{_LINE_ENDS.sub(_escaped, name)}\n" for name in batch.names)
            written += len(batch.names)
        npy.begin(file, np.float32, (written, feature_dim))
    return written


_LINE_ENDS = re.compile("[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
"""What Python, too, ends lines at. In a name they are written as their escapes: a row, a line."""


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _write_csv(path: Path, batches: Iterator[Embedded], feature_dim: int) -> int:
    written = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv_writer(file)
        rows.writerow(["path", *(f"f{column}" for column in range(feature_dim))])
        for batch in batches:
            for name, features in zip(batch.names, batch.features.tolist(), strict=True):
                rows.writerow([name, *(f"{value:.9g}" for value in features)])
            written += len(batch.names)
    return written


def _names_file(path: Path) -> Path:
    return path.with_suffix(".txt")


def _view(image: Image, spec: EncoderSpec) -> NDArray[np.uint8] | str:
    try:
        with decoded(image.read()) as pixels:
            return center_view(pixels, spec.image_size, spec.eval_crop_ratio)
    except UndecodableError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
