"""The header of a JPEG: its size and its EXIF orientation, without decoding it."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

START = b"\xff\xd8"
END = b"\xff\xd9"
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x112


class Header(NamedTuple):
    """What a JPEG says of itself: pixels as stored, and EXIF's orientation, 1 … 8."""

    height: int
    width: int
    orientation: int


def header_of(data: bytes) -> Header | None:
    """Read the header of a JPEG; None where it has none."""
    orientation = 1
    for marker, content in _segments(data):
        if marker in _SIZES and len(content) >= 5:
            return Header(int.from_bytes(content[1:3]), int.from_bytes(content[3:5]), orientation)
        if marker == 0xE1 and content.startswith(_EXIF):
            orientation = orientation_in(content)
    return None


def orientation_in(exif: bytes) -> int:
    """Read the orientation in a block of EXIF: 1 … 8, and 1 where it states none."""
    exif = exif.removeprefix(_EXIF)
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    first = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[first : first + 2], order)
    for at in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        if int.from_bytes(exif[at : at + 2], order) == _ORIENTATION:
            value = int.from_bytes(exif[at + 8 : at + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give marker and content of each segment before the scan; pass over what is none."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            return
        length = int.from_bytes(data[at + 2 : at + 4])
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
