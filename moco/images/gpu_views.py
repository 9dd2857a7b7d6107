"""The view backend of the GPU: a whole batch of views is painted at a time.

From the same drawn numbers it paints the views of `moco.images.views`, except for rounding. Nothing
here waits for the device: what the host must know, it knows from the drawn numbers, which travel
once a batch. On CPU tensors the same code runs, slowly.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.images import operations
from moco.images.color import CONTRAST, HUE, SATURATION
from moco.images.operations import FUSED, Chosen, paint_operations

MEMORY = 2**30
"""Bytes that painting may use at a time, beside images and views; one image may need more."""


@torch.no_grad()
def paint_batch(images: Sequence[Tensor], chosen: Chosen, size: int, memory: int = MEMORY) -> Tensor:
    """Paint views of images on their device, without waiting for it.

    Operations after `FUSED` are painted by plain libraries on a copy of the views; that waits.

    Args:
        images: uint8 3 x H x W [N], of any sizes.
        chosen: drawn views [N, V], with crops.
        size: S.
        memory: bytes that intermediate values may use, about; one image may need more.

    Returns:
        uint8 V x N x 3 x S x S, channels-last in memory.
    """
    (count, per_image), device = chosen.shape, images[0].device
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    chunks = [_numbers(chosen, chunk) for chunk in _chunks(sizes, per_image, size, memory)]
    table = torch.from_numpy(np.concatenate([chunk.table for chunk in chunks]))
    table = table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
    out = torch.empty((per_image * count, size, size, 3), dtype=torch.uint8, device=device)
    with torch.autocast(device.type, enabled=False):
        for chunk, numbers in zip(chunks, table.split([len(chunk.table) for chunk in chunks]), strict=True):
            views = _resized([images[i] for i in chunk.images], numbers[:, :5], size)
            views = _painted(views[numbers[:, 5].long()], chunk, numbers)
            out.index_copy_(0, numbers[:, 6].long(), views.permute(0, 1, 3, 2).to(torch.uint8))
    if len(operations.OPERATIONS) > len(FUSED):
        pixels = out.cpu().numpy()
        paint_operations(chosen.T.reshape(-1), pixels, after_fused=True)
        out.copy_(torch.from_numpy(pixels))
    return out.view(per_image, count, size, size, 3).movedim(-1, -3)


def _chunks(sizes: Sequence[tuple[int, int]], views: int, size: int, memory: int) -> Iterator[list[int]]:
    """Part images into chunks that fit the memory, padded to the largest; similar ones together."""
    chunk: list[int] = []
    height = width = 0
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        height, width = max(height, sizes[i][0]), max(width, sizes[i][1])
        # float32. Resizing: the image; a view's filters, its resized rows, itself. Then 26 planes.
        resizing = 3 * height * width + views * size * (2 * (height + width) + 3 * width + 3 * size)
        each = 4 * max(resizing, 26 * views * size**2)
        if chunk and (len(chunk) + 1) * each > memory:
            yield chunk
            chunk, (height, width) = [], sizes[i]
        chunk.append(i)
    yield chunk


class _Chunk(NamedTuple):
    images: list[int]
    table: NDArray[np.float32]
    """[M, 22], M views. In the images' order, top, left, height, width and flip of a view. In the
    order of painting: place among those, place in the batch, factor at each of the jitter's four
    turns, share of the mean gray and of the pixel's own gray at each, the hue's shift, grayscale,
    sigma."""
    hue: list[int]
    """First view whose hue shifts at turn 0 … 3, and the first one without jitter."""
    radius: int
    """The largest of a blur; 0: nothing is blurred."""


def _numbers(chosen: Chosen, images: list[int]) -> _Chunk:
    """Prepare what the device needs of drawn views, sorted by when their hue shifts.

    So that a turn shifts a slice: the hue costs more than the rest of the jitter.
    """
    views, (count, per_image) = chosen[images].reshape(-1), chosen.shape
    place = (np.array(images)[:, None] + count * np.arange(per_image)).reshape(-1)
    turn = np.where(views["order"][:, 0] < 0, 4, (views["order"] == HUE).argmax(1))
    by_turn = np.argsort(turn, kind="stable")
    crops = np.stack([views[name] for name in ("top", "left", "height", "width", "flip")], axis=1)
    views = views[by_turn]
    factors = np.where(views["order"] == HUE, 1, np.take_along_axis(views["factors"], views["order"], 1))
    shares = [np.where(views["order"] == operation, 1 - factors, 0) for operation in (CONTRAST, SATURATION)]
    rest = np.stack([views["factors"][:, HUE], views["grayscale"], views["sigma"]], axis=1)
    columns = crops, by_turn[:, None], place[by_turn][:, None], factors, *shares, rest
    table = np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")
    hue = np.searchsorted(turn[by_turn], np.arange(5)).tolist()
    return _Chunk(images, table, hue, int(np.ceil(3 * views["sigma"].max())))


def _resized(images: Sequence[Tensor], crops: Tensor, size: int) -> Tensor:
    """Cut, flip and resize by two products with filters: whole numbers, float32 M x S x 3 x S.

    float32 or TF32, as torch is set: pixels are whole in both, weights are within 2**-11.
    """
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    padded = images[0].new_zeros((len(images), height, 3, width), dtype=torch.float32)
    for into, image in zip(padded, images, strict=True):
        into[: image.shape[1], :, : image.shape[2]] = image.permute(1, 0, 2)
    top, left, rows, columns, flip = crops[:, :, None].unbind(1)
    to = torch.arange(size, device=crops.device)
    down = _filter(to, top, rows, size, height)
    across = _filter(torch.where(flip > 0, size - 1 - to, to), left, columns, size, width)
    views = down.view(len(images), -1, height) @ padded.view(len(images), height, 3 * width)
    return _round(views.view(-1, size * 3, width) @ across.mT).view(-1, size, 3, size)


def _filter(to: Tensor, first: Tensor, length: Tensor, size: int, whole: int) -> Tensor:
    """Weigh the pixels of a side for each pixel of a view: float32 M x S x whole.

    The triangle of Pillow and of torch with antialias, as wide as the pixels it covers. Enlarging,
    it is one pixel wide, which is plain bilinear with repeated edges, as cv2.INTER_LINEAR.
    """
    scale = length / size
    pixels = (torch.arange(whole, device=to.device) - first)[:, None]
    weights = pixels - ((to + 0.5) * scale - 0.5)[:, :, None]
    weights.abs_().div_(-scale.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0)
    weights.mul_((pixels >= 0) & (pixels < length[:, :, None]))
    return weights.div_(weights.sum(-1, keepdim=True))


def _painted(x: Tensor, chunk: _Chunk, numbers: Tensor) -> Tensor:
    """Jitter, grayscale and blur whole float32 M x S x 3 x S; rounds where the CPU does."""
    shift, gray, sigma = numbers[:, 19:, None, None].unbind(1)
    gray = gray[..., None]
    x = torch.where(gray == 1, _round(_gray(x)), x)
    jittered = x[: chunk.hue[4]]
    turns = numbers[: chunk.hue[4], 7:19, None, None, None]
    for turn in range(4):
        luma = _gray(jittered)
        mean = luma.trunc().mean((1, 2, 3), keepdim=True)  # of whole grays, as torchvision's is
        towards = turns[:, 4 + turn] * mean + turns[:, 8 + turn] * luma
        jittered.mul_(turns[:, turn]).add_(towards).clamp_(0, 255)
        now = slice(chunk.hue[turn], chunk.hue[turn + 1])
        x[now] = _with_hue_shifted(x[now], shift[now, ..., None])
    x = _round(x)
    x = torch.where(gray == 2, _round(_gray(x)), x)
    return _blurred(x, sigma, chunk.radius) if chunk.radius else x


def _round(x: Tensor) -> Tensor:
    return (x + 0.5).floor_()


def _gray(x: Tensor) -> Tensor:
    """Compute the luma of M x S x 3 x S, its channel kept."""
    red, green, blue = x.split(1, dim=2)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _with_hue_shifted(x: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue as `moco.images.color` does."""
    red, green, blue = x.split(1, dim=2)
    high = x.amax(2, keepdim=True)
    spread = high - x.amin(2, keepdim=True)
    over = 1 / spread.clamp(min=1e-20)  # a gray has no hue to shift
    hue = torch.where(high == green, 2 + (blue - red) * over, 4 + (red - green) * over)
    hue = torch.where(high == red, (green - blue) * over, hue) + 6 * turns
    k = (hue + torch.arange(5, 0, -2, device=x.device)[:, None]) % 6
    return high - spread * torch.minimum(k, 4 - k).clamp_(0, 1)


def _blurred(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur whole float32 M x S x 3 x S; sigma, M x 1 x 1, is 0 for views that stay as they are.

    A product with a banded matrix a side; its first and last columns collect the repeated edges.
    """
    size = x.shape[1]
    to = torch.arange(size, device=x.device)[:, None]
    distance = torch.arange(-radius, size + radius, device=x.device) - to
    weights = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)) ** 2) * (distance.abs() <= (3 * sigma).ceil())
    weights = weights / weights.sum(-1, keepdim=True)
    band = weights[..., radius : radius + size].clone()
    band[..., 0] += weights[..., :radius].sum(-1)
    band[..., -1] += weights[..., radius + size :].sum(-1)
    x = (band @ x.reshape(-1, size, 3 * size)).view(-1, 3 * size, size)
    return _round(x @ band.mT).view(-1, size, 3, size)
