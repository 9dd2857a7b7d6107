"""Show that two loaders draw views of one distribution, and that ours paints what it draws."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.official import repainted
from moco.config import Views
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.images.decode import decode
from moco.images.index import ShardSet
from moco.images.views import draw, paint

AT_MOST = 4.5
"""Standard errors that a mean of two sides may lie apart; they have a dozen of them together."""


def same_views(images: ShardSet, settings: Views, size: int) -> str:
    """Paint our views again with Pillow and torchvision from the same parameters, and compare.

    Raises:
        AssertionError: they look different.
    """
    found = []
    for sample in range(min(64, len(images))):
        image, painted = decode(images.read(sample)), np.empty((2, size, size, 3), np.uint8)
        chosen = draw(settings, 0, 0, np.array([sample]))[0].placed(*image.shape[:2])
        paint(image, chosen, painted)
        for view, mine in zip(chosen, painted, strict=True):
            apart = float(np.square(mine.astype(np.float64) - repainted(image, view, size)).mean())
            found.append(10 * np.log10(255**2 / max(apart, 1e-2)))
    middle, least = float(np.median(found)), min(found)
    assert middle > 42 and least > 34, f"views of the same parameters: {middle:.1f} dB, least {least:.1f} dB"
    return f"painted again by Pillow and torchvision from the same drawn parameters, our views agree to {middle:.0f} dB (median; least {least:.0f} dB)"


def same_distribution(mine: Iterator[Any], peers: dict[str, Iterator[Any]], batches: int) -> list[str]:
    """Compare means and deviations of the colors and the mean step between neighboring pixels.

    Args:
        mine: our batches.
        peers: theirs.
        batches: of each, an epoch or several, so that all have seen the same images.

    Raises:
        AssertionError: a peer's mean is further from ours than chance explains.
    """
    mean, error = _moments(mine, batches)
    lines = []
    for name, batch in peers.items():
        theirs, their_error = _moments(batch, batches)
        apart = float(((mean - theirs) / (error.square() + their_error.square()).sqrt()).abs().max())
        assert apart < AT_MOST, f"{name}: another distribution, {apart:.1f} standard errors apart"
        lines.append(f"{name} {apart:.1f}")
    return [
        "colors' means and deviations, and the step between neighboring pixels, are within sampling error of every peer's"
        f" (the largest difference in standard errors: {', '.join(lines)})"
    ]


def _moments(endless: Iterator[Any], batches: int) -> tuple[Tensor, Tensor]:
    """Compute the means over all views of seven numbers of a view, and their standard errors."""
    numbers = torch.cat([_numbers(pair(next(endless))) for _ in range(batches)], dim=1)  # 2 x N x 7
    within = (numbers[0] - numbers[1]).square().mean(dim=0) / 2  # variance of a view given its image
    return numbers.mean(dim=(0, 1)), (within / numbers[..., 0].numel()).sqrt()


def _numbers(views: Tensor) -> Tensor:
    step = (views[..., 1:] - views[..., :-1]).abs().mean(dim=(-3, -2, -1))
    return torch.cat([views.mean(dim=(-2, -1)), views.std(dim=(-2, -1)), step[..., None]], dim=-1)


def pair(batch: Any) -> Tensor:
    """Any side's batch as values in [0, 1], 2 x N x 3 x S x S."""
    views = batch if isinstance(batch, Tensor) else torch.stack([torch.as_tensor(part) for part in batch[:2]])
    if views.dtype == torch.uint8:
        return views.float() / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return views * std + mean
