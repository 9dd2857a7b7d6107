"""From bytes to what networks expect."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """Normalize images, uint8 N x 3 x H x W in [0, 255], to float32 by mean and deviation.

    Mean and deviation are of values in [0, 1].

    Images of floats are taken to be normalized already.
    """
    if images.is_floating_point():
        return images
    scale, shift = _on(images.device, tuple(mean), tuple(std))
    return torch.addcmul(shift, images.float(), scale)


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Give what normalizes bytes x as `scale * x + shift`: float32, 1 x 3 x 1 x 1 each."""
    scale = torch.tensor([1 / (255 * s) for s in std])
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)


@cache  # a new tensor on a GPU would make the host wait for it, at every step
def _on(device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    scale, shift = scale_and_shift(mean, std)
    return scale.to(device), shift.to(device)
