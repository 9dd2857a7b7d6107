"""One shard: images are checked, stored as JPEG, PNG or WebP, and written to a byte-stable tar."""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.config import Shard
from moco.errors import MocoError
from moco.images.decode import LARGEST_FILE, Pixels, UndecodableError, decode, has_frames, require_sound_size
from moco.images.index import sample_key
from moco.images.jpeg import header_of
from moco.sources.listing import Row
from moco.sources.places import Place, file_at

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


@dataclass(frozen=True)
class Segment:
    """Images of a tar that come from one place: from their files, or from an earlier tar."""

    rows: list[Row]
    origins: list[Origin] = field(default_factory=list)
    """Where each image is; empty: in `before`."""
    places: list[tuple[Place, ...]] = field(default_factory=list)
    """Where each is besides, or now; empty: nothing is known of that."""
    before: Path | None = None
    """A tar of `write_tar` that holds the images in this order, and perhaps more."""
    bad: list[dict[str, str]] = field(default_factory=list)
    """path and reason of the files that were left out of it."""


def write_tar(path: Path, segments: list[Segment], tick: Callable[[int], None]) -> dict[str, Any]:
    """Write images as KEY.jpg|png|webp and KEY.json to a new tar.

    Args:
        path: the tar to write.
        segments: the images; the bytes are the same wherever they come from.
        tick: called after each image with the size of its source in bytes; may raise to stop.

    Returns:
        samples, bytes and sha256 of the tar; index: [offset, size, label, key] for each image;
        quarantine: path and reason of each file left out; of_frames: images of several frames or
        pages.

    Raises:
        MocoError: an image has changed since fetch.
        OSError: the tar cannot be written.
    """
    with path.open("wb", buffering=0) as file:
        note = _Note(_Tar(file))
        for segment in segments:
            if segment.before is None:
                _store(segment, note, tick)
            else:
                _copy(segment, segment.before, note, tick)
        note.tar.finish()
    return {
        "samples": len(note.index),
        "bytes": note.tar.offset,
        "sha256": note.tar.digest.hexdigest(),
        "index": note.index,
        "quarantine": note.bad,
        "of_frames": note.of_frames,
    }


@dataclass
class _Note:
    tar: "_Tar"
    index: list[list[int]] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    of_frames: int = 0


def _store(segment: Segment, note: _Note, tick: Callable[[int], None]) -> None:
    places = segment.places or [()] * len(segment.rows)
    for row, origin, further in zip(segment.rows, segment.origins, places, strict=True):
        try:
            data, extension, frames = _stored(row, origin, further)
        except (UndecodableError, cv2.error) as error:
            note.bad.append({"path": _name(row, origin), "reason": _plain(error)})
        else:
            note.of_frames += frames
            key, label = sample_key(row.key), origin.classes.get(row.label, -1)
            note.index.append([note.tar.add(f"{key}.{extension}", data), len(data), label, row.key])
            about = {"label": label, "class": row.label or None, "path": _name(row, origin), "sha256": row.sha256}
            note.tar.add(f"{key}.json", json.dumps(about).encode())
        tick(row.bytes)


def _copy(segment: Segment, before: Path, note: _Note, tick: Callable[[int], None]) -> None:
    """Copy what is wanted from an earlier tar."""
    wanted, there = {row.key for row in segment.rows if row.sha256}, {row.path for row in segment.rows}
    note.bad += [bad for bad in segment.bad if bad["path"] in there]
    with tarfile.open(before) as opened:
        for member in opened:
            key, _, extension = member.name.partition(".")
            file = opened.extractfile(member)
            if int(key, 16) not in wanted or file is None:
                continue
            data = file.read()
            start = note.tar.add(member.name, data)
            if extension == "json":
                note.index[-1][2] = json.loads(data)["label"]
                tick(0)
            else:
                note.index.append([start, len(data), -1, int(key, 16)])


def _name(row: Row, origin: Origin) -> str:
    return row.path if origin.arrays is None else f"{row.path}[{row.row}]"


def _plain(error: Exception) -> str:
    """Put the reason on one line, without addresses of objects, which differ from run to run."""
    return re.sub(r"\s+", " ", re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))).strip()


def _stored(row: Row, origin: Origin, places: tuple[Place, ...]) -> tuple[bytes, str, bool]:
    """Return the bytes to store for a row, their extension, and whether there were more frames."""
    if row.row is not None and origin.arrays is not None:
        pixels = np.ascontiguousarray(origin.arrays[row.row])
        _require_unchanged(row, hashlib.sha256(pixels.data), origin)
        return _png(pixels), "png", False
    data = _read(row, origin, places)
    extension = _kind(data)
    if extension == "jpg" and origin.settings.max_side is None and _jpeg_is_sound(data):
        return data, extension, False
    pixels = decode(data)
    side = origin.settings.max_side
    header = header_of(data) if extension == "jpg" else None  # `decode` may have halved a large JPEG
    if side is not None and max(header[:2] if header else pixels.shape[:2]) > side:
        return (
            _jpeg(_shrunk(pixels, min(side, max(pixels.shape[:2]))), origin.settings.jpeg_quality),
            "jpg",
            has_frames(data),
        )
    return (data, extension, has_frames(data)) if extension else (_png(pixels), "png", has_frames(data))


def _read(row: Row, origin: Origin, places: tuple[Place, ...]) -> bytes:
    """Read the bytes of an image, from the first of its places that has them.

    Raises:
        MocoError: none has; says it of the place that the listing names.
    """
    if row.bytes > LARGEST_FILE:
        raise UndecodableError(f"larger than {LARGEST_FILE // 10**6} MB")
    try:
        return _read_at(row, origin, origin.root, row.path, row.row)
    except MocoError:
        for place in places:
            with suppress(MocoError):
                return _read_at(row, origin, Path(place.root), place.path, place.row)
        raise


def _read_at(row: Row, origin: Origin, root: Path, name: str, offset: int | None) -> bytes:
    # The manifest is in UTF-8, whatever encoding this process takes for that of files' names.
    path = file_at(root, os.fsdecode(name.encode(errors="surrogateescape")), offset)
    try:
        with path.open("rb") as file:
            file.seek(offset or 0)
            data = file.read(-1 if offset is None else row.bytes)
    except OSError as error:
        if row.sha256:
            raise MocoError(
                f"{path}: fetch read it, but it cannot be read now ({error.strerror}); {_RUN_FETCH}"
            ) from None
        raise UndecodableError(f"cannot be read ({error.strerror})") from None
    _require_unchanged(row, hashlib.sha256(data), origin)
    return data


_RUN_FETCH = "put it back, or run `dvc repro --force --single-item fetch`, or `moco ingest` a folder that has it"


def _require_unchanged(row: Row, digest: Any, origin: Origin) -> None:
    # The split follows the content: other bytes under this name could move a test image to
    # training.
    if digest.hexdigest() != row.sha256:
        raise MocoError(f"{origin.root / _name(row, origin)}: has changed since fetch; {_RUN_FETCH}")


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

    Raises:
        UndecodableError: it is too large, or claims more than it holds.
    """
    if b"\xff\xd9" not in data[-4096:]:
        return False
    require_sound_size(data)
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
