"""One shard: images are checked, stored as JPEG, PNG or WebP, and written to a byte-stable tar."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.config import Shard
from moco.errors import MocoError
from moco.images.decode import Pixels, UndecodableError, decode
from moco.images.index import sample_key
from moco.sources.manifest import Row

LARGEST_FILE = 256 * 10**6  # bytes; a video among the images must not fill the memory
BLOCK = 512
WRITE_AT = 4 * 2**20  # bytes in a block


@dataclass(frozen=True)
class Origin:
    """Where the rows of a manifest lead, and how to store their images."""

    root: Path
    """Folder of the image files."""
    arrays: NDArray[np.uint8] | None
    """The array of images, for a source of arrays."""
    classes: dict[str, int]
    """Label of each class name."""
    settings: Shard


def write_tar(
    path: Path, split: str, first: int, rows: list[Row], origin: Origin, tick: Callable[[int], None]
) -> dict[str, Any]:
    """Write the images of `rows` as KEY.jpg|png|webp and KEY.json to a new tar.

    Args:
        path: the tar to write.
        split: part of the keys.
        first: position of the first row in the split's part of the manifest.
        rows: the images.
        origin: where the images are.
        tick: called after each image with the size of its source in bytes; may raise to stop.

    Returns:
        samples, bytes and sha256 of the tar; index: [offset, size, label, ordinal] for each image;
        quarantine: path and reason of each file left out.

    Raises:
        MocoError: an image has changed since fetch.
        OSError: the tar cannot be written.
    """
    index, bad = [], []
    with path.open("wb", buffering=0) as file:
        tar = _Tar(file)
        for ordinal, row in enumerate(rows, first):
            try:
                data, extension = _stored(row, origin)
            except (UndecodableError, cv2.error) as error:
                bad.append({"path": _name(row), "reason": _plain(error)})
            else:
                key, label = sample_key(split, ordinal), origin.classes.get(row.label, -1)
                index.append([tar.add(f"{key}.{extension}", data), len(data), label, ordinal])
                about = {"label": label, "class": row.label or None, "path": _name(row)}
                tar.add(f"{key}.json", json.dumps(about).encode())
            tick(row.bytes)
        tar.finish()
    return {
        "samples": len(index),
        "bytes": tar.offset,
        "sha256": tar.digest.hexdigest(),
        "index": index,
        "quarantine": bad,
    }


def _name(row: Row) -> str:
    return row.path if row.row is None else f"{row.path}[{row.row}]"


def _plain(error: Exception) -> str:
    """Put the reason on one line, without addresses of objects, which differ from run to run."""
    return re.sub(r"\s+", " ", re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))).strip()


def _stored(row: Row, origin: Origin) -> tuple[bytes, str]:
    """Return the bytes to store for a row, and their extension."""
    if row.row is not None:
        assert origin.arrays is not None
        pixels = np.ascontiguousarray(origin.arrays[row.row])
        _require_unchanged(row, hashlib.sha256(pixels.data), origin)
        return _png(pixels), "png"
    data = _read(row, origin)
    extension = _kind(data)
    if extension == "jpg" and origin.settings.max_side is None and _jpeg_is_sound(data):
        return data, extension
    pixels = decode(data)
    side = origin.settings.max_side
    if side is not None and max(pixels.shape) > side:
        return _jpeg(_shrunk(pixels, side), origin.settings.jpeg_quality), "jpg"
    return (data, extension) if extension else (_png(pixels), "png")


def _read(row: Row, origin: Origin) -> bytes:
    if row.bytes > LARGEST_FILE:
        raise UndecodableError(f"larger than {LARGEST_FILE // 10**6} MB")
    path = origin.root / row.path
    try:
        with path.open("rb", buffering=0) as file:
            data = file.readall()
    except OSError as error:
        if row.sha256:
            raise MocoError(
                f"{path}: fetch read it, but it cannot be read now ({error.strerror}); {_RUN_FETCH}"
            ) from None
        raise UndecodableError(f"cannot be read ({error.strerror})") from None
    _require_unchanged(row, hashlib.sha256(data), origin)
    return data


_RUN_FETCH = "put it back, or run `dvc repro --force --single-item fetch`"


def _require_unchanged(row: Row, digest: Any, origin: Origin) -> None:
    # The split follows the content: other bytes under this name could move a test image to
    # training.
    if digest.hexdigest() != row.sha256:
        raise MocoError(f"{origin.root / _name(row)}: has changed since fetch; {_RUN_FETCH}")


def _kind(data: bytes) -> str | None:
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _jpeg_is_sound(data: bytes) -> bool:
    """Tell whether a JPEG decodes; if not, `decode` judges it and gives the reason.

    At 1/8 of the size in gray every coefficient is still read, in 60 % of the time of a full
    decode.
    """
    if b"\xff\xd9" not in data[-4096:]:
        return False
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags) is not None


def _shrunk(pixels: Pixels, side: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    image = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", image)[1].tobytes()


class _Tar:
    """A USTAR archive being written; `tarfile` writes the same bytes at 1/5 of the speed.

    Blocks are hashed in a thread while they are written and the next one fills.

    Attributes:
        offset: bytes so far.
        digest: SHA-256 of the whole, after `finish`.
    """

    def __init__(self, file: FileIO) -> None:
        self.file, self.offset, self.digest = file, 0, hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._hasher = ThreadPoolExecutor(1)
        self._hashed: Future[None] | None = None

    def add(self, name: str, data: bytes) -> int:
        """Append a file; return the offset of its bytes in the tar."""
        self._append(_header(name, len(data)))
        start = self.offset
        self._append(data)
        self._append(bytes(-len(data) % BLOCK))
        return start

    def finish(self) -> None:
        """End the tar with two empty blocks, at a multiple of 20 blocks."""
        self._append(bytes(2 * BLOCK + -(self.offset + 2 * BLOCK) % (20 * BLOCK)))
        self._flush()
        self._hasher.shutdown()

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.offset += len(data)
        if self._waiting_bytes >= WRITE_AT:
            self._flush()

    def _flush(self) -> None:
        block = memoryview(b"".join(self._waiting))
        if self._hashed:
            self._hashed.result()  # no more than two blocks are in memory
        self._hashed = self._hasher.submit(self.digest.update, block)
        while block:
            block = block[self.file.write(block) :]
        self._waiting, self._waiting_bytes = [], 0


def _header(name: str, size: int) -> bytes:
    header = bytearray(_TEMPLATE)
    letters, digits = name.encode("ascii"), b"%011o" % size
    header[: len(letters)] = letters
    header[124:135] = digits
    header[148:156] = b"%06o\0 " % (_TEMPLATE_SUM + sum(letters) + sum(digits))
    return bytes(header)


def _template() -> bytes:
    """Make a header of mode 0644, owner 0, time 0; name and size empty, the checksum blank."""
    fields = {100: b"0000644\0", 108: b"0000000\0", 116: b"0000000\0", 136: b"00000000000\0", 148: b" " * 8}
    fields |= {156: b"0", 257: b"ustar\x0000"}
    header = bytearray(BLOCK)
    for start, value in fields.items():
        header[start : start + len(value)] = value
    return bytes(header)


_TEMPLATE = _template()
_TEMPLATE_SUM = sum(_TEMPLATE)
