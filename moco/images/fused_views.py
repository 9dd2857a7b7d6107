"""The optional compiled view backend: views of a JPEG, decoded only where their crops lie.

`fused_views.cpp` is compiled when the package is installed, if there is a C++ compiler and
libjpeg-turbo with its header (Debian: g++ libjpeg62-turbo-dev). From the same drawn numbers it
paints the views of `moco.images.views`, except for rounding, and the same bytes on every
processor. Calls release the GIL and may run in several threads.
"""

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.images.decode import Pixels

_LAYOUT = 2060  # version 2 of the functions, and the 60 bytes of a drawn view
_DAMAGED, _INVALID = 1, 2


def available() -> bool:
    """Tell whether the compiled part is built, finds its libjpeg, and is of this version."""
    return _library() is not None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read height and width of a JPEG in pixels, EXIF orientation not applied.

    Returns:
        None if `views_of_jpeg` cannot take it: another format, CMYK, a damaged header.
    """
    size = (ctypes.c_int32 * 2)()
    if _built().moco_jpeg_size(data, len(data), size) == _DAMAGED:
        return None
    return size[0], size[1]


def views_of_jpeg(data: bytes, views: NDArray[Any], out: NDArray[np.uint8]) -> bool:
    """Make the views of a JPEG; decode what their crops cover and nothing below.

    Args:
        data: the file.
        views: `moco.images.operations.VIEW` [V]; crops in pixels of the whole image.
        out: uint8 [V, S, S, 3], each view contiguous; receives the views.

    Returns:
        False if the data are damaged where they were read, or truncated: the ordinary decoder must
        judge them, and `out` holds nothing useful.

    Raises:
        ValueError: the views do not fit the image, or `out` does not fit the views.
    """
    _require_fit(views, out)
    if data.rfind(b"\xff\xd9", -4096) < 0:  # as in `decode`: nothing else notices damage below the crops
        return False
    result = _built().moco_views_of_jpeg(
        data, len(data), views.ctypes.data, len(views), out.shape[1], out.ctypes.data, out.strides[0]
    )
    return _is_done(result)


def views_of_pixels(image: Pixels, views: NDArray[Any], out: NDArray[np.uint8]) -> None:
    """Make the views of a decoded image.

    Args:
        image: uint8, H x W x 3.
        views: `moco.images.operations.VIEW` [V].
        out: uint8 [V, S, S, 3], each view contiguous; receives the views.

    Raises:
        ValueError: the views do not fit the image, or `out` does not fit the views.
        MemoryError: there is no memory for a copy of the image.
    """
    _require_fit(views, out)
    image = np.ascontiguousarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: {image.dtype} {image.shape}, expected uint8 H x W x 3")
    height, width = image.shape[:2]
    pixels, drawn, written = image.ctypes.data, views.ctypes.data, out.ctypes.data
    result = _built().moco_views_of_pixels(
        pixels, height, width, drawn, len(views), out.shape[1], written, out.strides[0]
    )
    if not _is_done(result):
        raise MemoryError(f"views of {height} x {width} pixels")


def _require_fit(views: NDArray[Any], out: NDArray[np.uint8]) -> None:
    if views.ndim != 1 or views.itemsize != _LAYOUT % 1000 or not views.flags.c_contiguous:
        raise ValueError(f"views: {views.dtype} {views.shape}, expected VIEW [V], contiguous")
    side = out.shape[1] if out.ndim == 4 else 0
    if out.dtype != np.uint8 or out.shape != (len(views), side, side, 3):
        raise ValueError(f"out: {out.dtype} {out.shape}, expected uint8 [{len(views)}, S, S, 3]")
    if out.strides[1:] != (side * 3, 3, 1) or not out.flags.writeable:
        raise ValueError("out: each view is expected to be contiguous and writeable")


def _is_done(result: int) -> bool:
    if result == _INVALID:
        raise ValueError("views: a crop outside the image, or values that are never drawn")
    return result != _DAMAGED


def _built() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("the compiled part is not built; ask `available` first")
    return library


@cache
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    for path in (folder / f"_fused_views{suffix}" for suffix in EXTENSION_SUFFIXES):
        if path.exists():
            return _load(path)
    return None


def _load(path: Path) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(path))
        if library.moco_views_layout() != _LAYOUT:
            return None
    except (OSError, AttributeError):  # no libjpeg on this machine; a library of another version
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    views_and_out: list[Any] = [pointer, number, number, pointer, ctypes.c_ssize_t]
    library.moco_jpeg_size.argtypes = [ctypes.c_char_p, size, pointer]
    library.moco_views_of_jpeg.argtypes = [ctypes.c_char_p, size, *views_and_out]
    library.moco_views_of_pixels.argtypes = [pointer, number, number, *views_and_out]
    return library
