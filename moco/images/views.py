"""The random views of an image: one implementation, on uint8, a pure function of (seed, epoch, sample).

Distributions are those of MoCo's recipes (v1: paper, section 3.3; v2: Chen et al. 2020, section 3), drawn
per image and view. Every number drawn comes from a hash of (seed, epoch, sample, view, slot), so workers,
processes and restarts change nothing and no generator state is stored.
"""

import itertools

import cv2
import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from moco.config import Views
from moco.images.decode import Pixels
from moco.images.plan import Integers, key_of, mix

Uniforms = NDArray[np.float64]

# Slots of the numbers drawn for one view.
_CROP, _FLIP, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _ORDER, _GRAYSCALE, _BLUR, _SIGMA = (
    0, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
)  # fmt: skip
_SLOTS = 32
_CROP_ATTEMPTS = 10

_ORDERS = np.array(
    list(itertools.permutations(range(4))), dtype=np.int64
)  # brightness, contrast, saturation, hue


def draw(seed: int, epoch: int, samples: Integers, views: int = 2) -> Uniforms:
    """The uniform numbers behind the views of some samples.

    Args:
        seed: of the run.
        epoch: counted from 0.
        samples: int64 [N], indices of the images.
        views: how many views of each.

    Returns:
        float64 [N, views, 32] in [0, 1).
    """
    base = mix(key_of(seed, epoch) ^ mix(samples.astype(np.uint64)))
    slots = np.arange(views * _SLOTS, dtype=np.uint64).reshape(views, _SLOTS)
    words = mix(base[:, None, None] ^ mix(slots + np.uint64(1)))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@njit(cache=True, nogil=True)
def crop_box(u: Uniforms, height: int, width: int, scale_min: float) -> tuple[int, int, int, int]:
    """The rectangle of a random resized crop (Szegedy et al. 2015, as torchvision draws it).

    Area uniform in [scale_min, 1] of the image, log aspect ratio uniform in [log 3/4, log 4/3]; the first
    of ten attempts that fits, else the largest centred rectangle of an allowed ratio.

    Returns:
        (top, left, height, width) in pixels.
    """
    for attempt in range(_CROP_ATTEMPTS):
        area = height * width * (scale_min + (1.0 - scale_min) * u[2 * attempt])
        ratio = np.exp(np.log(3 / 4) + np.log(16 / 9) * u[2 * attempt + 1])
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(u[2 * _CROP_ATTEMPTS] * (height - h + 1))
            left = int(u[2 * _CROP_ATTEMPTS + 1] * (width - w + 1))
            return top, left, h, w
    h, w = height, width
    if width < height * 3 / 4:
        h = round(width / (3 / 4))
    elif width > height * 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@njit(cache=True, nogil=True)
def _shift_hue(r: float, g: float, b: float, turn: float) -> tuple[float, float, float]:
    high, low = max(r, g, b), min(r, g, b)
    spread = high - low
    if spread == 0.0:
        return r, g, b
    if high == r:
        hue = (g - b) / spread
    elif high == g:
        hue = 2.0 + (b - r) / spread
    else:
        hue = 4.0 + (r - g) / spread
    hue = (hue / 6.0 + turn) % 1.0 * 6.0
    sector = int(hue)
    part = hue - sector
    falling, rising = high - spread * part, high - spread * (1.0 - part)
    if sector == 0:
        return high, rising, low
    if sector == 1:
        return falling, high, low
    if sector == 2:
        return low, high, rising
    if sector == 3:
        return low, falling, high
    if sector == 4:
        return rising, low, high
    return high, low, falling


@njit(cache=True, nogil=True)
def _grey(r: float, g: float, b: float) -> float:
    return 0.2989 * r + 0.587 * g + 0.114 * b


@njit(cache=True, nogil=True)
def _clip(x: float) -> float:
    return min(max(x, 0.0), 255.0)


@njit(cache=True, nogil=True)
def jitter(image: Pixels, order: Integers, factors: Uniforms) -> None:
    """Colour jitter in place, the four operations in any order in two passes over the pixels.

    Args:
        image: uint8, H x W x 3.
        order: int64 [4], a permutation of brightness 0, contrast 1, saturation 2, hue 3.
        factors: float64 [4]: three factors, and the hue shift in turns.
    """
    height, width = image.shape[:2]
    contrast_at = 0
    while order[contrast_at] != 1:
        contrast_at += 1
    work = np.empty((height, width, 3), dtype=np.float32)
    total = 0.0
    # Contrast needs the mean grey of what came before it: what precedes it is the first pass, the rest the second.
    for first, last in ((0, contrast_at), (contrast_at, 4)):
        mean = total / (height * width)
        for y in range(height):
            for x in range(width):
                if first == 0 and last == contrast_at:
                    r, g, b = float(image[y, x, 0]), float(image[y, x, 1]), float(image[y, x, 2])
                else:
                    r, g, b = float(work[y, x, 0]), float(work[y, x, 1]), float(work[y, x, 2])
                for at in range(first, last):
                    operation = order[at]
                    factor = factors[operation]
                    if operation == 0:
                        r, g, b = _clip(r * factor), _clip(g * factor), _clip(b * factor)
                    elif operation == 3:
                        r, g, b = _shift_hue(r, g, b, factor)
                    else:
                        target = (1.0 - factor) * (mean if operation == 1 else _grey(r, g, b))
                        r, g, b = (
                            _clip(r * factor + target),
                            _clip(g * factor + target),
                            _clip(b * factor + target),
                        )
                if last == 4:
                    image[y, x, 0], image[y, x, 1], image[y, x, 2] = int(r + 0.5), int(g + 0.5), int(b + 0.5)
                else:
                    work[y, x, 0], work[y, x, 1], work[y, x, 2] = r, g, b
                    total += int(_grey(r, g, b))  # whole greys, as torchvision's mean has them
        if last == 4:
            break


@njit(cache=True, nogil=True)
def grayscale(image: Pixels) -> None:
    """Three equal channels of luma, in place."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            value = int(_grey(image[y, x, 0], image[y, x, 1], image[y, x, 2]) + 0.5)
            image[y, x, 0] = image[y, x, 1] = image[y, x, 2] = value


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Antialiased bilinear resize of uint8 H x W x 3 (as Pillow's, to one level)."""
    if image.shape[:2] == (height, width):
        return image.copy()
    if height >= image.shape[0] and width >= image.shape[1]:  # nothing to antialias, and a tenth of the time
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    channels_first = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        channels_first, (height, width), mode="bilinear", antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def random_view(image: Pixels, settings: Views, size: int, u: Uniforms) -> Pixels:
    """One random view.

    Args:
        image: uint8, H x W x 3.
        settings: the distributions.
        size: S, side of the view in pixels.
        u: float64 [32], from `draw`.

    Returns:
        uint8, S x S x 3.
    """
    top, left, height, width = crop_box(u, image.shape[0], image.shape[1], settings.crop_scale_min)
    view = resize(image[top : top + height, left : left + width], size, size)
    grey = u[_GRAYSCALE] < settings.grayscale_p
    if grey and settings.order == "v1":
        grayscale(view)
    if u[_JITTER] < settings.jitter_p:
        limits = (settings.brightness, settings.contrast, settings.saturation)
        factors = [
            max(0.0, 1 - x) + (min(1.0, x) + x) * v for x, v in zip(limits, u[_BRIGHTNESS:_HUE], strict=True)
        ]
        factors.append(settings.hue * (2 * u[_HUE] - 1))
        jitter(view, _ORDERS[int(u[_ORDER] * len(_ORDERS))], np.array(factors))
    if grey and settings.order == "v2":
        grayscale(view)
    if u[_BLUR] < settings.blur_p:
        sigma = settings.blur_sigma_min + (settings.blur_sigma_max - settings.blur_sigma_min) * u[_SIGMA]
        side = 2 * int(np.ceil(3 * sigma)) + 1
        cv2.GaussianBlur(view, (side, side), sigma, dst=view, borderType=cv2.BORDER_REPLICATE)
    if u[_FLIP] < settings.flip_p:
        view = view[:, ::-1]
    return view


def two_views(
    image: Pixels, settings: Views, size: int, seed: int, epoch: int, sample: int
) -> tuple[Pixels, Pixels]:
    """The query and the key view that training sees of a sample in an epoch; uint8, S x S x 3 each."""
    u = draw(seed, epoch, np.array([sample]))[0]
    return random_view(image, settings, size, u[0]), random_view(image, settings, size, u[1])


def centre_view(image: Pixels, size: int, crop_ratio: float) -> Pixels:
    """The view that evaluation sees: short side to size / crop_ratio, then the central square.

    Returns:
        uint8, size x size x 3.
    """
    height, width = image.shape[:2]
    short = max(size, round(size / crop_ratio))
    scale = short / min(height, width)
    resized = resize(image, max(short, round(height * scale)), max(short, round(width * scale)))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return np.ascontiguousarray(resized[top : top + size, left : left + size])
