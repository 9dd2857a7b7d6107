"""The random views of an image, on uint8: a pure function of (seed, epoch, sample).

Drawing is separate from painting, so another view backend, such as `moco.images.fused_views`,
paints the same views.
"""

from dataclasses import dataclass

import cv2
import numba
import numpy as np
import torch

from moco.compiled import cached
from moco.config import Views
from moco.images.decode import Pixels
from moco.images.draws import Draws, Uniforms
from moco.images.operations import Chosen, choose, paint_operations
from moco.permutation import Integers

_CROP_ATTEMPTS = 10
_LONGEST = 4  # times its short side that an image may be long before it is cut for the center view


@dataclass(frozen=True)
class Drawn:
    """Drawn views, without the pixels of their crops, which depend on the images' sizes.

    Attributes:
        chosen: [N, V], or [V] of one image.
        crops: float64 [..., 22], the numbers that the crops follow from.
        scale_min: smallest share of the area that a crop keeps.
    """

    chosen: Chosen
    crops: Uniforms
    scale_min: float

    def __getitem__(self, i: int) -> "Drawn":
        return Drawn(self.chosen[i], self.crops[i], self.scale_min)

    def placed(self, height: int, width: int) -> Chosen:
        """Return the views [V] of one image of this size in pixels, crops included."""
        for view, numbers in zip(self.chosen, self.crops, strict=True):
            crop = crop_box(numbers, height, width, self.scale_min)
            view["top"], view["left"], view["height"], view["width"] = crop
        return self.chosen


def draw(settings: Views, seed: int, epoch: int, samples: Integers, views: int = 2) -> Drawn:
    """Draw views of some samples.

    Args:
        settings: the distributions.
        seed: of the run.
        epoch: counted from 0.
        samples: int64 [N], indices of the images.
        views: V, views of each image.
    """
    draws = Draws.of(seed, epoch, samples, views)
    crops = np.moveaxis(draws("crop", 2 * _CROP_ATTEMPTS + 2), 0, -1)
    return Drawn(choose(draws, settings), crops, settings.crop_scale_min)


@cached(numba.njit, nogil=True)
def crop_box(u: Uniforms, height: int, width: int, scale_min: float) -> tuple[int, int, int, int]:
    """Compute the rectangle of a random resized crop (Szegedy et al. 2015, as torchvision does).

    Area uniform in [scale_min, 1] of the image, log aspect ratio uniform in [log 3/4, log 4/3]; the
    first of ten attempts that fits, else the largest centered rectangle of an allowed ratio.

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
    """Make views of an image with plain libraries.

    Args:
        image: uint8, H x W x 3.
        chosen: [V], with crops.
        out: uint8, V x S x S x 3, contiguous; is written over.
    """
    for view, into in zip(chosen, out, strict=True):
        top, left, height, width = (int(view[name]) for name in ("top", "left", "height", "width"))
        resize_into(image[top : top + height, left : left + width], into)
    paint_operations(chosen, out)


def resize_into(image: Pixels, out: Pixels) -> None:
    """Resize uint8 H x W x 3 to the size of `out`: antialiased, bilinear, Pillow's to one level."""
    height, width = out.shape[:2]
    if image.shape[:2] == (height, width):
        out[:] = image
    elif height >= image.shape[0] and width >= image.shape[1]:  # nothing to antialias
        cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    else:
        # Channels-last in memory is several times as fast in torch as channels-first.
        source, target = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (image, out))
        torch.ops.aten._upsample_bilinear2d_aa.out(source, [height, width], False, None, None, out=target)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize into a new array, uint8 height x width x 3."""
    out = np.empty((height, width, 3), np.uint8)
    resize_into(image, out)
    return out


def two_views(image: Pixels, settings: Views, size: int, seed: int, epoch: int, sample: int) -> tuple[Pixels, Pixels]:
    """Make the query and the key view of a sample in an epoch; uint8, S x S x 3 each."""
    drawn, out = draw(settings, seed, epoch, np.array([sample]))[0], np.empty((2, size, size, 3), np.uint8)
    paint(image, drawn.placed(*image.shape[:2]), out)
    return out[0], out[1]


def _middle(image: Pixels) -> Pixels:
    """Cut a long image to the middle that a center view can show, before it is resized.

    One pixel by ten thousand would take gigabytes. As much is cut on both sides, to the pixel.
    """
    length = _LONGEST * min(image.shape[:2])
    top, left = (max(0, (side - length) // 2) for side in image.shape[:2])
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def center_view(image: Pixels, size: int, crop_ratio: float) -> Pixels:
    """Make the view for evaluation: short side to size / crop_ratio, then the central square.

    Returns:
        uint8, size x size x 3.
    """
    image = _middle(image)
    height, width = image.shape[:2]
    short = max(size, round(size / crop_ratio))
    scale = short / min(height, width)
    resized = resize(image, max(short, round(height * scale)), max(short, round(width * scale)))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return np.ascontiguousarray(resized[top : top + size, left : left + size])
