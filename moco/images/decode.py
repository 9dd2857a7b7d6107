"""Encoded bytes to pixels: one decoder for sharding's check and for training."""

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from moco.images.jpeg import END, START, orientation_in
from moco.images.jpeg import header_of as jpeg_header
from moco.images.unsupported import ADVICE, unsupported

Pixels = NDArray[np.uint8]
"""An RGB image, uint8, H x W x 3."""

LARGEST_FILE = 256 * 10**6
"""Bytes of an encoded image; a video among the images must not fill the memory."""
LARGEST = 2**31
"""Bytes of memory that decoding an image may take, beside those of its file."""
KEPT = 2**26
"""Pixels of a decoded JPEG; a larger one is decoded at half its sides."""
_BYTES = {"JPEG": 9, "PNG": 12, "TIFF": 12, "BMP": 12, "DIB": 12, "PPM": 12, "TGA": 12}
_BYTES_OF_OTHERS = 20
"""Bytes a pixel that decoding takes at most, measured: Pillow holds four of RGB, we three."""
_PIXELS_OF_A_BYTE = 1024
"""More a JPEG cannot hold: a block of 64 pixels takes a bit at least."""
_DARK = 4096
"""Samples of 16 bits that all are below are mostly of 12 bits or fewer, and would be black."""
_SNIFFED = 8192  # bytes in which a format shows
_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_FORMATS = (*_BYTES, "WEBP", "GIF", "AVIF", "JPEG2000", "ICO", "ICNS", "QOI", "PCX", "SGI")
_BAND = 2**20  # pixels that are converted at once

cv2.setNumThreads(0)  # the loader's processes are the parallelism; nested threads only slow them
# In blocks that the C library gives back: of 16 MB ones, Pillow's own, each thread would keep some.
Image.core.set_block_size(2**26)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `LARGEST` is the limit here
Image.MAX_IMAGE_PIXELS = LARGEST // min(_BYTES.values())  # Pillow refuses twice as many by itself


class UndecodableError(ValueError):
    """The bytes are not a readable image; the text says why."""


def decode(data: bytes, *, as_stored: bool = False) -> Pixels:
    """Decode a JPEG, PNG, WebP or other still image to RGB; docs/data.md has the table of formats.

    It is turned as its EXIF orientation says. Transparent pixels are laid over white, 16-bit
    samples become 8-bit, grays become three equal channels; of frames and pages the first counts.

    Args:
        data: the file.
        as_stored: neither turn it nor decode a JPEG of more than `KEPT` pixels at half its sides.

    Returns:
        uint8 array, H x W x 3.

    Raises:
        UndecodableError: the bytes are empty, truncated, not an image, of a format that is not
            read, of unknown range, or decoding them would take more than `LARGEST` bytes.
    """
    if not data:
        raise UndecodableError("empty file")
    # OpenCV decodes truncated files silently, so the end must be there; Pillow judges all others.
    if data[:2] == START and END in data[-4096:]:
        image = _decode_jpeg(data, as_stored)
        if image is not None:
            return image
    elif data[:4] == b"\x89PNG" and b"IEND" in data[-4096:] and (plain := _plain_png(data)):
        image = _decode_with_opencv(plain, cv2.IMREAD_UNCHANGED)  # 9 times as fast as Pillow at 28 pixels
        if image is not None and image.ndim == 2:
            return np.repeat(image[:, :, None], 3, axis=2)
        if image is not None and image.shape[2] == 3:
            return np.ascontiguousarray(image[:, :, ::-1])
    return _decode_with_pillow(data, as_stored)


def read_encoded(path: Path) -> bytes:
    """Read a file that an image may be.

    Raises:
        OSError: it cannot be read.
        UndecodableError: it is larger than `LARGEST_FILE`.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise UndecodableError(f"larger than {LARGEST_FILE // 10**6} MB")
    return data


class Header(NamedTuple):
    """What an image file says of itself before its pixels: format and mode as Pillow names them."""

    format: str
    mode: str
    width: int
    height: int


def header_of(file: BinaryIO) -> Header:
    """Read the header of an image file; its pixels may be damaged all the same.

    Raises:
        OSError: it cannot be read.
        UndecodableError: it is no image, of a format that is not read, or too large.
    """
    start = file.read(_SNIFFED)
    if kind := unsupported(start):
        raise UndecodableError(f"{kind} is not read; {ADVICE}")
    file.seek(0)
    try:
        with _open(file) as image:
            require_size(image.format, *image.size)
            _require_no_thumbnail(image)
            return Header(image.format or "", image.mode, *image.size)
    except UndecodableError:
        raise
    except Exception as error:  # as in `_decode_with_pillow`
        raise UndecodableError(_not_readable(error)) from None


def require_sound_size(data: bytes) -> None:
    """Refuse a JPEG whose header claims what it cannot hold, or what does not fit the memory.

    Raises:
        UndecodableError: it does.
    """
    header = jpeg_header(data)
    if header is not None:
        require_size("JPEG", header.width, header.height)
        if header.height * header.width > _PIXELS_OF_A_BYTE * len(data):
            raise UndecodableError(f"claims {header.width} x {header.height} pixels in {len(data)} bytes: damaged")


def orientation(data: bytes) -> int:
    """Read how `decode` turns what it decodes `as_stored`, 1 … 8 as in EXIF; 1: not at all."""
    if data[:2] == START:
        header = jpeg_header(data)
        return 1 if header is None else header.orientation
    try:
        with _open(io.BytesIO(data)) as file:
            return 1 if file.format == "TIFF" else orientation_of(file)
    except Exception:  # as in `_decode_with_pillow`, which says why
        return 1


def has_frames(data: bytes) -> bool:
    """Tell whether a file has several frames or pages; `decode` takes the first."""
    if data[:4] == b"\x89PNG":
        return data.find(b"acTL", 0, max(data.find(b"IDAT"), 0)) > 0
    if data[:4] == b"RIFF":
        return data[12:16] == b"VP8X" and bool(data[20] & 2)
    if data[:2] == START:
        return False  # of what a phone puts behind its picture nothing is an image of its own
    try:
        with _open(io.BytesIO(data)) as file:
            return int(getattr(file, "n_frames", 1)) > 1
    except Exception:  # as in `_decode_with_pillow`
        return False


def orientation_of(file: Image.Image) -> int:
    """Read the EXIF orientation of an opened image, 1 … 8. Pillow turns TIFFs itself."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        value = file.tag_v2.get(0x112, 1)
        return value if value in range(1, 9) else 1
    exif = file.info.get("exif") or _exif_behind_pixels(file)
    return orientation_in(exif) if isinstance(exif, bytes) else 1


def _exif_behind_pixels(file: Image.Image) -> bytes:
    """Find the EXIF that a PNG may have behind its pixels, where Pillow reads it only with them."""
    stream = getattr(file, "fp", None)
    if file.format != "PNG" or stream is None:
        return b""
    before, found = stream.tell(), b""
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND" and not found:
        size = int.from_bytes(head[:4])
        if head[4:] == b"eXIf":
            found = stream.read(size)
        else:
            stream.seek(size + 4, io.SEEK_CUR)
    stream.seek(before)
    return found


def turned(image: Pixels, orientation: int) -> Pixels:
    """Turn an image as it was stored to the way in which its EXIF orientation shows it."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


class _Room:
    """Memory that threads share: who needs more than is free waits."""

    def __init__(self, size: int) -> None:
        self._free, self._changed = size, threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


_ROOM = _Room(LARGEST)


@contextmanager
def decoded(data: bytes) -> Iterator[Pixels]:
    """Decode an image for as long as the block runs; errors as in `decode`.

    Threads that decode in this way take no more than `LARGEST` bytes together.
    """
    with room_for(data):
        yield decode(data)


def room_for(data: bytes) -> AbstractContextManager[None]:
    """Wait until the memory that decoding an image takes is free; threads share `LARGEST` bytes."""
    return _ROOM.take(_needed(data))


def _needed(data: bytes) -> int:
    """Bytes of memory that decoding takes; 0 where it fails at once."""
    try:
        if data[:2] == START:
            header = jpeg_header(data)
            size = (0, 0) if header is None else (header.width, header.height)
            return require_size("JPEG", *size)
        with _open(io.BytesIO(data)) as file:
            return require_size(file.format, *file.size)
    except Exception:  # as in `_decode_with_pillow`
        return 0


def require_size(kind: str | None, width: int, height: int) -> int:
    """Give the bytes of memory that decoding takes.

    Args:
        kind: the format, as Pillow names it.
        width: pixels.
        height: pixels.

    Raises:
        UndecodableError: more than `LARGEST`.
    """
    a_pixel = _BYTES.get(kind or "", _BYTES_OF_OTHERS)
    if width * height * a_pixel > LARGEST:
        raise UndecodableError(
            f"{width} x {height} pixels, more than the {LARGEST // a_pixel / 1e6:.0f} million that a {kind} may have;"
            " make it smaller, or cut it into parts"
        )
    return width * height * a_pixel


def _decode_jpeg(data: bytes, as_stored: bool) -> Pixels | None:
    header = jpeg_header(data)
    if header is None:
        return None
    require_sound_size(data)
    flags = cv2.IMREAD_COLOR_RGB
    if header.height * header.width > KEPT and not as_stored:
        flags |= cv2.IMREAD_REDUCED_GRAYSCALE_2
    image = _decode_with_opencv(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or as_stored or header.orientation == 1:
        return image
    return turned(image, header.orientation)


def _plain_png(data: bytes) -> bytes | None:
    """Give what OpenCV may decode of a PNG: the chunks that its pixels follow from.

    libpng prints warnings of what is odd in the others.

    Args:
        data: the file.

    Returns:
        None where it has 16 bits, alpha or EXIF, or ends before a chunk does: OpenCV takes memory
        before it looks.
    """
    width, height, bits, colors = int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data[24:25], data[25:26]
    if bits == b"\x10" or colors in (b"\x04", b"\x06") or b"eXIf" in data:
        return None
    require_size("PNG", width, height)
    place, kind, kept = 8, b"", [data[:8]]
    while place < len(data) and kind != b"IEND":
        begin, kind = place, data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4])
        if kind in _OF_PIXELS:
            kept.append(data[begin:place])
    return b"".join(kept) if kind == b"IEND" and place <= len(data) else None


def _decode_with_opencv(data: bytes, flags: int) -> Pixels | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for example, sides beyond its limits
        return None
    return image.astype(np.uint8, copy=False) if image is not None and image.dtype == np.uint8 else None


def _decode_with_pillow(data: bytes, as_stored: bool = False) -> Pixels:
    kind = unsupported(data)
    if kind:
        raise UndecodableError(f"{kind} is not read; {ADVICE}")
    try:
        with _open(io.BytesIO(data)) as file:
            require_size(file.format, *file.size)
            _require_no_thumbnail(file)
            deep = any(";16" in str(tile.args) for tile in getattr(file, "tile", ()))
            file.load()
            image = _in_bands(file, deep)
            return image if as_stored or file.format == "TIFF" else turned(image, orientation_of(file))
    except UndecodableError:
        raise
    except Exception as error:  # Pillow's plug-ins raise almost any error on broken files
        raise UndecodableError(_not_readable(error)) from None


def _not_readable(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        pixels = next(iter(re.findall(r"\d+", str(error))), "too many")
        return f"{pixels} pixels, more than decoding may take; make it smaller, or cut it into parts"
    reason = re.sub(r" ?<_io\.\w+[^>]*>", "", str(error))  # an address in memory differs each time
    return f"not a readable image ({type(error).__name__}: {reason})"


def _open(file: BinaryIO) -> Image.Image:
    Image.init()
    return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])


def _require_no_thumbnail(file: Image.Image) -> None:
    """Refuse a TIFF that shows a small copy first, as cameras' raw files do, or is a DNG."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        tags = file.tag_v2
        if 50706 in tags or (isinstance(kind := tags.get(254, 0), int) and kind & 1):
            raise UndecodableError(
                f"a TIFF whose first page is a thumbnail (a camera's raw format) is not read; {ADVICE}"
            )


def _in_bands(file: Image.Image, deep: bool) -> Pixels:
    """Convert a loaded image to RGB, some lines at a time: Pillow would hold it several times."""
    wide = file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM")
    if file.mode == "F" or (file.mode == "I" and not wide):
        raise UndecodableError(
            "its samples have 32 bits or a sign, and nothing states their range; save it in 8 or 16 bits"
        )
    transparent = file.has_transparency_data
    width, height = file.size
    image, brightest = np.empty((height, width, 3), np.uint8), 0
    lines = max(1, _BAND // width)
    for top in range(0, height, lines):
        band = file if lines >= height else file.crop((0, top, width, min(top + lines, height)))
        rows = image[top : top + lines]
        if wide:
            samples = np.asarray(band)
            brightest = max(brightest, int(samples.max()))
            rows[:] = np.clip(samples.astype(np.float32) / 257, 0, 255).astype(np.uint8)[:, :, None]
            continue
        if transparent:
            rgba = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        rows[:] = np.asarray(band.convert("RGB"))
    if deep and not wide:
        brightest = 257 * int(image.max())
    if (wide or deep) and 0 < brightest < _DARK:
        raise UndecodableError(
            f"its 16-bit samples reach {brightest} of 65535 and would be nearly black; scale them to the whole range"
        )
    return image
