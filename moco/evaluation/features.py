"""Images to features: read, take a view, encode."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.config import Views
from moco.encoders import FrozenEncoder
from moco.images.decode import Pixels
from moco.images.index import ShardSet
from moco.images.loader import outlive_signals, read_image
from moco.images.plan import Integers, key_of, permute
from moco.images.views import centre_view, draw, random_view

Features = NDArray[np.float32]
Featuriser = Callable[[Tensor], Tensor]
"""uint8 N x 3 x S x S to float32 N x D."""

BATCH = 256
PIXELS_SIDE = 32  # the pixel baseline's side at most, for a classifier on 224 x 224 x 3 numbers says no more

# The linear protocol's training views: random resized crop of 8-100 % of the area, and flip (paper, section 4.1).
LINEAR_VIEWS = Views(
    order="v1", crop_scale_min=0.08, jitter_p=0, brightness=0, contrast=0, saturation=0, hue=0, grayscale_p=0,
    blur_p=0, blur_sigma_min=0.1, blur_sigma_max=0.1, flip_p=0.5,
)  # fmt: skip


@dataclass
class SingleViews(Dataset[Tensor]):
    """Item n is the n-th batch of one view of each image, uint8 N x 3 x S x S.

    Attributes:
        images: the shard set.
        indices: int64, which images, in which order.
        size: S, pixels.
        crop_ratio: of the centre view.
        augmented: (seed, epoch) of random views in the place of centre views, or None.
        batch: images a batch.
    """

    images: ShardSet
    indices: Integers
    size: int
    crop_ratio: float
    augmented: tuple[int, int] | None = None
    batch: int = BATCH

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, number: int) -> Tensor:
        samples = self.indices[number * self.batch : (number + 1) * self.batch]
        out = np.empty((len(samples), self.size, self.size, 3), dtype=np.uint8)
        numbers = draw(*self.augmented, samples, views=1) if self.augmented else None
        for position, sample in enumerate(samples):
            image = read_image(self.images, int(sample))
            if numbers is None:
                out[position] = centre_view(image, self.size, self.crop_ratio)
            else:
                out[position] = random_view(image, LINEAR_VIEWS, self.size, numbers[position, 0])
        return torch.from_numpy(out).permute(0, 3, 1, 2)


def batches(views: SingleViews, num_workers: int) -> Iterator[Tensor]:
    """The batches of a view set in order, prepared by worker processes."""
    workers = num_workers if len(views) > 1 else 0
    return iter(DataLoader(views, batch_size=None, num_workers=workers, worker_init_fn=outlive_signals))


def extract(
    encoder: FrozenEncoder, split: ShardSet, indices: Integers | None = None, num_workers: int = 0
) -> Features:
    """Features of the centre views of some images.

    Args:
        encoder: frozen.
        split: the images.
        indices: int64, which of them; None: all, in the order of the set.
        num_workers: loader processes.

    Returns:
        float32, N x D.
    """
    chosen = np.arange(len(split)) if indices is None else indices
    views = SingleViews(split, chosen, encoder.spec.image_size, encoder.spec.eval_crop_ratio)
    return apply(encoder.embed, views, num_workers)


def apply(featuriser: Featuriser, views: SingleViews, num_workers: int) -> Features:
    """Features of every view of a set, float32 N x D, in order."""
    parts = [featuriser(batch).numpy() for batch in batches(views, num_workers)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def embed_images(encoder: FrozenEncoder, images: Sequence[Pixels]) -> Features:
    """Features of decoded images of any sizes (uint8 H x W x 3), float32 N x D."""
    spec = encoder.spec
    parts = []
    for first in range(0, len(images), BATCH):
        chunk = images[first : first + BATCH]
        views = np.stack([centre_view(image, spec.image_size, spec.eval_crop_ratio) for image in chunk])
        parts.append(encoder.embed(torch.from_numpy(views).permute(0, 3, 1, 2)).numpy())
    return np.concatenate(parts) if parts else np.zeros((0, spec.feature_dim), dtype=np.float32)


def pixels(images: Tensor) -> Tensor:
    """The baseline that any learned feature must beat: the image itself.

    Args:
        images: uint8, N x 3 x S x S.

    Returns:
        float32 in [0, 1], N x 3 min(S, 32)^2.
    """
    if images.shape[-1] > PIXELS_SIDE:
        side = (PIXELS_SIDE, PIXELS_SIDE)
        images = torch.nn.functional.interpolate(images, side, mode="bilinear", antialias=True)
    return images.flatten(1).float() / 255


def spread(count: int, at_most: int, seed: int) -> Integers:
    """At most so many of range(count), drawn without repetition by seed, in rising order; int64."""
    if count <= at_most:
        return np.arange(count)
    return np.sort(permute(np.arange(at_most), count, key_of(seed, 0x5EED)))
