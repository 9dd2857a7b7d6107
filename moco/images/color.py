"""Color jitter and grayscale on uint8 images, compiled by numba.

Each operation is one pass over float32 planes, without branches, so the compiler vectorizes it: all
four take a tenth of the time of a loop over pixels. Between operations nothing is rounded.
"""

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from moco.compiled import cached
from moco.images.decode import Pixels

Plane = NDArray[np.float32]
Planes = tuple[Pixels, Pixels, Pixels]
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_R, _G, _B = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_ZERO, _ONE, _FOUR, _SIX, _WHITE, _HALF = (np.float32(x) for x in (0, 1, 4, 6, 255, 0.5))
_SIXTH, _LEAST = np.float32(1 / 6), np.float32(1e-20)
# What holds for floats that are never infinite; sums are not reordered.
_compiled = cached(numba.njit, nogil=True, error_model="numpy", fastmath={"nnan", "ninf", "nsz", "arcp", "contract"})


def jitter(image: Pixels, order: NDArray[np.int32], factors: NDArray[np.float32]) -> None:
    """Jitter the colors in place, as torchvision does with a float image.

    Args:
        image: uint8, H x W x 3, contiguous.
        order: int32 [4], a permutation of brightness 0, contrast 1, saturation 2, hue 3.
        factors: float32 [4]: three factors, and the hue shift in turns.
    """
    planes: Planes = cv2.split(image)  # type: ignore[assignment]
    _jitter(planes[0].ravel(), planes[1].ravel(), planes[2].ravel(), order, factors)
    cv2.merge(planes, image)


def grayscale(image: Pixels) -> None:
    """Set all three channels to the luma, in place; uint8, H x W x 3, contiguous."""
    planes: Planes = cv2.split(image)  # type: ignore[assignment]
    _grayscale(planes[0].ravel(), planes[1].ravel(), planes[2].ravel())
    cv2.merge((planes[0],) * 3, image)


@_compiled
def _jitter(red: Pixels, green: Pixels, blue: Pixels, order: NDArray[np.int32], factors: NDArray[np.float32]) -> None:
    r, g, b = red.astype(np.float32), green.astype(np.float32), blue.astype(np.float32)
    for operation in order:
        factor = factors[operation]
        if operation in (BRIGHTNESS, CONTRAST):
            towards = _ZERO
            if operation == CONTRAST:
                towards = (_ONE - factor) * np.float32(_mean_gray(r, g, b))
            _blend(r, factor, towards)
            _blend(g, factor, towards)
            _blend(b, factor, towards)
        elif operation == SATURATION:
            _saturate(r, g, b, factor)
        else:
            _shift_hue(r, g, b, factor)
    _round(r, red)
    _round(g, green)
    _round(b, blue)


@_compiled
def _gray(r: np.float32, g: np.float32, b: np.float32) -> np.float32:
    return _R * r + _G * g + _B * b


@_compiled
def _clip(x: np.float32) -> np.float32:
    return min(max(x, _ZERO), _WHITE)


@_compiled
def _blend(plane: Plane, factor: np.float32, towards: np.float32) -> None:
    for i in range(plane.size):
        plane[i] = _clip(plane[i] * factor + towards)


@_compiled
def _mean_gray(r: Plane, g: Plane, b: Plane) -> float:
    total = np.int64(0)
    for i in range(r.size):
        total += np.int32(_gray(r[i], g[i], b[i]))  # whole grays, as torchvision's mean has them
    return total / r.size


@_compiled
def _saturate(r: Plane, g: Plane, b: Plane, factor: np.float32) -> None:
    for i in range(r.size):
        towards = (_ONE - factor) * _gray(r[i], g[i], b[i])
        r[i], g[i], b[i] = (
            _clip(r[i] * factor + towards),
            _clip(g[i] * factor + towards),
            _clip(b[i] * factor + towards),
        )


@_compiled
def _channel(k: np.float32, high: np.float32, spread: np.float32) -> np.float32:
    """Turn HSV into a channel; k: 5, 3 or 1 for red, green or blue, plus the hue in sixths."""
    k -= _SIX * np.floor(k * _SIXTH)
    return high - spread * max(_ZERO, min(_ONE, min(k, _FOUR - k)))


@_compiled
def _shift_hue(r: Plane, g: Plane, b: Plane, turns: np.float32) -> None:
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        high = max(red, max(green, blue))
        spread = high - min(red, min(green, blue))
        over = _ONE / max(spread, _LEAST)  # a gray has no hue to shift
        hue = _FOUR + (red - green) * over
        hue = np.float32(2) + (blue - red) * over if high == green else hue
        hue = (green - blue) * over if high == red else hue
        hue += _SIX * turns
        r[i] = _channel(hue + np.float32(5), high, spread)
        g[i] = _channel(hue + np.float32(3), high, spread)
        b[i] = _channel(hue + np.float32(1), high, spread)


@_compiled
def _round(plane: Plane, into: Pixels) -> None:
    for i in range(plane.size):
        into[i] = np.uint8(plane[i] + _HALF)


@_compiled
def _grayscale(red: Pixels, green: Pixels, blue: Pixels) -> None:
    for i in range(red.size):
        red[i] = np.uint8(_gray(np.float32(red[i]), np.float32(green[i]), np.float32(blue[i])) + _HALF)
