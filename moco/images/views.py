"""The random views of an image: one implementation, on uint8, a pure function of (seed, epoch, sample).

Distributions are those of MoCo's recipes (v1: paper, section 3.3; v2: Chen et al. 2020, section 3), drawn
per image and view. Every number drawn comes from a hash of (seed, epoch, sample, view, slot), so workers,
processes and restarts change nothing and no generator state is stored.

What is drawn (`choose`, `place`) is apart from what is painted (`paint`), so that another painter, such as
`moco.images.fused_views`, paints the same views.
"""

import itertools

import cv2
import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from moco.config import Views
from moco.images.color import grayscale, jitter
from moco.images.decode import Pixels
from moco.permutation import Integers, key_of, mix

Uniforms = NDArray[np.float64]
Chosen = NDArray[np.void]
"""Array of `VIEW`."""

VIEW = np.dtype(
    [
        ("top", "<i4"),
        ("left", "<i4"),
        ("height", "<i4"),
        ("width", "<i4"),
        ("order", "<i4", (4,)),
        ("factors", "<f4", (4,)),
        ("grayscale", "<i4"),
        ("sigma", "<f4"),
        ("flip", "<i4"),
    ]
)
"""What was drawn for one view. top, left, height, width: the crop, pixels of the whole image; order: the
jitter's operations (brightness 0, contrast 1, saturation 2, hue 3), or -1 first for none; factors: of each
operation, the hue's in turns; grayscale: 0 no, 1 before the jitter, 2 after it; sigma: of the blur, pixels,
0 for none; flip: 1 for left to right."""

# Slots of the numbers drawn for one view.
_CROP, _FLIP, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _ORDER, _GRAYSCALE, _BLUR, _SIGMA = (
    0,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    31,
)
_SLOTS = 32
_CROP_ATTEMPTS = 10
_NO_JITTER = (-1, -1, -1, -1)
_ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.int32)


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


def choose(u: Uniforms, settings: Views) -> Chosen:
    """Everything about some views but their crops, which need the images' sizes (`place`).

    Args:
        u: float64 [..., 32], from `draw`.
        settings: the distributions.

    Returns:
        `VIEW` [...].
    """
    chosen = np.zeros(u.shape[:-1], VIEW)
    orders = _ORDERS[(u[..., _ORDER] * len(_ORDERS)).astype(np.int64)]
    chosen["order"] = np.where(u[..., _JITTER, None] < settings.jitter_p, orders, _NO_JITTER)
    for at, strength in enumerate((settings.brightness, settings.contrast, settings.saturation)):
        least = max(0.0, 1 - strength)
        chosen["factors"][..., at] = least + (1 + strength - least) * u[..., _BRIGHTNESS + at]
    chosen["factors"][..., 3] = settings.hue * (2 * u[..., _HUE] - 1)
    chosen["grayscale"] = (u[..., _GRAYSCALE] < settings.grayscale_p) * (1 if settings.order == "v1" else 2)
    sigma = settings.blur_sigma_min + (settings.blur_sigma_max - settings.blur_sigma_min) * u[..., _SIGMA]
    chosen["sigma"] = np.where(u[..., _BLUR] < settings.blur_p, sigma, 0)
    chosen["flip"] = u[..., _FLIP] < settings.flip_p
    return chosen


def place(chosen: Chosen, u: Uniforms, size: tuple[int, int], scale_min: float) -> None:
    """Set the crops of the views of one image, `VIEW` [V] from u, float64 [V, 32]; size: its height and width."""
    for view, numbers in zip(chosen, u, strict=True):
        view["top"], view["left"], view["height"], view["width"] = crop_box(numbers, *size, scale_min)


@njit(cache=True, nogil=True)
def crop_box(u: Uniforms, height: int, width: int, scale_min: float) -> tuple[int, int, int, int]:
    """The rectangle of a random resized crop (Szegedy et al. 2015, as torchvision draws it).

    Area uniform in [scale_min, 1] of the image, log aspect ratio uniform in [log 3/4, log 4/3]; the first
    of ten attempts that fits, else the largest centered rectangle of an allowed ratio.

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


def paint(image: Pixels, chosen: Chosen, out: Pixels) -> None:
    """Make views of an image.

    Args:
        image: uint8, H x W x 3.
        chosen: `VIEW` [V], with crops.
        out: uint8, V x S x S x 3, contiguous; is written over.
    """
    for view, into in zip(chosen, out, strict=True):
        top, left, height, width = (int(view[name]) for name in ("top", "left", "height", "width"))
        resize_into(image[top : top + height, left : left + width], into)
        if view["grayscale"] == 1:
            grayscale(into)
        if view["order"][0] >= 0:
            jitter(into, view["order"], view["factors"])
        if view["grayscale"] == 2:
            grayscale(into)
        if view["sigma"] > 0:
            sigma = float(view["sigma"])
            side = 2 * int(np.ceil(3 * sigma)) + 1
            cv2.GaussianBlur(into, (side, side), sigma, dst=into, borderType=cv2.BORDER_REPLICATE)
        if view["flip"]:
            cv2.flip(into, 1, dst=into)


def resize_into(image: Pixels, out: Pixels) -> None:
    """Antialiased bilinear resize of uint8 H x W x 3 (as Pillow's, to one level) to the size of `out`."""
    height, width = out.shape[:2]
    if image.shape[:2] == (height, width):
        out[:] = image
    elif height >= image.shape[0] and width >= image.shape[1]:  # nothing to antialias
        cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    else:
        # Both channels-last in memory: the fast way in torch, several times faster than channels-first.
        source, target = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (image, out))
        torch.ops.aten._upsample_bilinear2d_aa.out(source, [height, width], False, None, None, out=target)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """`resize_into` a new array, uint8 height x width x 3."""
    out = np.empty((height, width, 3), np.uint8)
    resize_into(image, out)
    return out


def two_views(image: Pixels, settings: Views, size: int, seed: int, epoch: int, sample: int) -> tuple[Pixels, Pixels]:
    """The query and the key view that training sees of a sample in an epoch; uint8, S x S x 3 each."""
    u = draw(seed, epoch, np.array([sample]))[0]
    chosen, out = choose(u, settings), np.empty((2, size, size, 3), np.uint8)
    place(chosen, u, image.shape[:2], settings.crop_scale_min)
    paint(image, chosen, out)
    return out[0], out[1]


def center_view(image: Pixels, size: int, crop_ratio: float) -> Pixels:
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
