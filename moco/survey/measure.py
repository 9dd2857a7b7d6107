"""One image in numbers: sizes, brightness, sharpness, a perceptual hash and a tiny copy."""

import hashlib
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.images.decode import Pixels
from moco.images.views import resize

LOOK = 8
"""Side of the tiny copy, in pixels."""
HASHED = 32
"""Side of the gray copy that the hash is computed from."""
LARGEST = 256
"""Pixels of the longer side at which brightness and sharpness are measured; larger images are
reduced to it, so that a large image does not count as blurred for its size."""
FORMATS = ("other", "JPEG", "PNG", "WebP")
RECORD = np.dtype(
    [
        ("content", "<u8"),
        ("hash", "<u8"),
        ("mirrored", "<u8"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("bytes", "<u4"),
        ("format", "<u4"),
        ("mean", "<f4"),
        ("dark", "<f4"),
        ("bright", "<f4"),
        ("contrast", "<f4"),
        ("sharpness", "<f4"),
        ("look", "u1", (LOOK, LOOK, 3)),
    ]
)
"""An image in numbers.

content: the first 8 bytes of the SHA-256 of its file (two of a million different files share them
with probability 3e-8). hash, mirrored: pHash of the image, and of its mirror image. height, width:
pixels. bytes: of the file. format: position in `FORMATS`. mean: of the luma, 0 to 1. dark, bright:
luma that 1 % of the pixels are below, and above. contrast: standard deviation of the luma.
sharpness: that of its Laplacian, over the contrast. look: the image reduced to 8 x 8, RGB."""
_COSINES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(HASHED) + 1) / (2 * HASHED)).astype(np.float32)
_ODD = np.tile(np.arange(8) % 2 == 1, 8)


def measure(images: Iterable[tuple[bytes, Pixels]], count: int) -> NDArray[Any]:
    """Measure some images.

    Args:
        images: the file and the pixels (uint8 H x W x 3) of each, one at a time in memory.
        count: N.

    Returns:
        `RECORD` [N].
    """
    found = np.zeros(count, RECORD)
    gray = np.zeros((count, HASHED, HASHED), np.float32)
    for record, copy, (data, pixels) in zip(found, gray, images, strict=True):
        record["content"] = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
        record["height"], record["width"], record["bytes"] = *pixels.shape[:2], len(data)
        record["format"] = format_of(data)
        small = _reduced(pixels)
        luma: NDArray[Any] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        _light(record, luma)
        copy[:] = _copy(luma, HASHED)
        record["look"] = _copy(small, LOOK)
    found["hash"], found["mirrored"] = phash(gray)
    return found


def phash(gray: NDArray[np.float32]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hash gray images by their lowest frequencies, as pHash does.

    A bit says whether one of the 8 x 8 lowest coefficients of the discrete cosine transform is
    above their median. A mirror image has the same coefficients, those of odd horizontal
    frequencies negated, so that its hash costs no second transform.

    Args:
        gray: float32 N x 32 x 32.

    Returns:
        uint64 [N] of the images, uint64 [N] of their mirror images.
    """
    low = (_COSINES @ gray @ _COSINES.T).reshape(len(gray), 64)
    return _bits(low), _bits(np.where(_ODD, -low, low))


def format_of(data: bytes) -> int:
    """Tell a file's format by its first bytes: the position in `FORMATS`."""
    starts = (b"\xff\xd8", b"\x89PNG", b"RIFF")
    return next((number for number, start in enumerate(starts, 1) if data.startswith(start)), 0)


def _bits(low: NDArray[Any]) -> NDArray[np.uint64]:
    above = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").astype(np.uint64).ravel()


def _light(record: Any, luma: NDArray[Any]) -> None:
    """Measure brightness, contrast and sharpness of a gray image."""
    counts = np.bincount(luma.ravel(), minlength=256)
    up_to = np.cumsum(counts)
    record["dark"], record["bright"] = (np.searchsorted(up_to, share * up_to[-1]) / 255 for share in (0.01, 0.99))
    mean, deviation = cv2.meanStdDev(luma)
    record["mean"], record["contrast"] = mean.item() / 255, deviation.item() / 255
    if deviation.item() > 0:
        edges = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_32F))[1]
        record["sharpness"] = edges.item() / deviation.item()


def _reduced(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return pixels
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def _copy(image: NDArray[Any], side: int) -> NDArray[Any]:
    """Resize an image to a square: by areas where it shrinks, else linearly."""
    smaller = image.shape[0] >= side and image.shape[1] >= side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
