"""Images to features: read, take a view, encode."""

import hashlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco import npy
from moco.config import Views, settings_hash
from moco.encoders.frozen import FrozenEncoder
from moco.errors import MocoError
from moco.features.placing import fetched
from moco.files import hash_of_files, whole_file
from moco.images import fused_views
from moco.images.batches import read_image, views_of
from moco.images.decode import Pixels
from moco.images.index import ShardSet
from moco.images.loader import steps
from moco.images.views import center_view, draw
from moco.permutation import Integers, key_of, permute

Features = NDArray[np.float32]
Featurizer = Callable[[Tensor], Tensor]
"""uint8 N x 3 x S x S on the CPU to float32 N x D on the device that computes them, which may still
be at work: `FrozenEncoder.launch`, `pixels`."""

BATCH = 256
PIXELS_SIDE = 32  # the pixel baseline's side at most, for a classifier on 224 x 224 x 3 numbers says no more

# The linear protocol's training views: crops of 8-100 % of the area, and flips (section 4.1).
LINEAR_VIEWS = Views(
    order="v1",
    crop_scale_min=0.08,
    jitter_p=0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
    grayscale_p=0,
    blur_p=0,
    blur_sigma_min=0.1,
    blur_sigma_max=0.1,
    flip_p=0.5,
)


@dataclass
class SingleViews:
    """Batches of one view of each image; batch n holds the n-th rows of `indices`.

    Attributes:
        images: the shard set.
        indices: int64, which images, in which order.
        size: S, pixels.
        crop_ratio: of the center view.
        augmented: (seed, epoch) of random views; None: center views.
        count: images a batch; the last one may have fewer.
    """

    images: ShardSet
    indices: Integers
    size: int
    crop_ratio: float
    augmented: tuple[int, int] | None = None
    count: int = BATCH
    per_image = 1

    def __len__(self) -> int:
        return -(-len(self.indices) // self.count)

    def samples(self, number: int) -> Integers:
        """Give the images of a batch, int64."""
        return self.indices[number * self.count : (number + 1) * self.count]

    def fill(self, number: int, rows: slice, batch: Pixels) -> None:
        """Make some rows of a batch, uint8 1 x N x S x S x 3; rows beyond the last image stay."""
        samples = self.samples(number)[rows]
        drawn = draw(LINEAR_VIEWS, *(self.augmented or (0, 0)), samples, views=1)
        compiled = fused_views.available()
        for i, sample in enumerate(samples):
            out = batch[:, rows.start + i]
            if self.augmented:
                data, key = self.images.read(int(sample)), self.images.key(int(sample))
                views_of(data, key, drawn[i], out, compiled)
            else:
                out[0] = center_view(read_image(self.images, int(sample)), self.size, self.crop_ratio)


def batches(views: SingleViews, num_workers: int) -> Generator[Tensor]:
    """Iterate over a view set in order, prepared by worker processes: uint8 N x 3 x S x S.

    A batch stays unchanged until two more were asked for.
    """
    workers = num_workers if len(views) > 1 else 0
    with closing(steps(views, 0, len(views), workers, torch.device("cpu"))) as prepared:
        for number, batch in enumerate(prepared):
            yield batch[0, : len(views.samples(number))]


def extract(encoder: FrozenEncoder, split: ShardSet, indices: Integers | None = None, num_workers: int = 0) -> Features:
    """Encode the center views of some images.

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
    return apply(encoder.launch, views, num_workers)


def apply(featurizer: Featurizer, views: SingleViews, num_workers: int) -> Features:
    """Encode every view of a set, float32 N x D, in order."""
    parts = [found.numpy() for found in fetched(map(featurizer, batches(views, num_workers)))]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Extractor:
    """Makes one kind of features.

    Attributes:
        name: of the kind, in what is printed.
        featurizer: images to features.
        fingerprint: of the featurizer, such as a hash of its weights.
        size: S, pixels.
        crop_ratio: of the center view.
        num_workers: loader processes.
        cache: folder in which features of center views are kept; None: they are kept in memory.
    """

    name: str
    featurizer: Featurizer
    fingerprint: str
    size: int
    crop_ratio: float
    num_workers: int = 0
    cache: Path | None = None

    def center(self, split: ShardSet, indices: Integers) -> Features:
        """Encode the center views of some images, float32 N x D, in order.

        With a cache they are extracted once, written as they come, and memory-mapped, so that they
        may be larger than the memory.
        """
        views = SingleViews(split, indices, self.size, self.crop_ratio)
        if self.cache is None:
            return apply(self.featurizer, views, self.num_workers)
        chosen = hashlib.sha256(indices.tobytes()).hexdigest()
        seen = (split.data_hash, split.split, chosen, self.size, self.crop_ratio)
        name = settings_hash(self.fingerprint, *seen, _code_of_images())
        path = self.cache / f"{name}.npy"
        while True:
            with suppress(FileNotFoundError):  # not made yet, or somebody is tidying up at this very moment
                os.utime(path)  # used just now
                found = npy.mapped(path, writable_copy=True)  # never written to, but torch warns otherwise
                if found is not None and found.dtype == np.float32 and found.ndim == 2 and len(found) == len(indices):
                    return found
                print(f"{self.name}: {path} is damaged and made again", file=sys.stderr, flush=True)
            print(f"{self.name}: encoding {len(indices)} images, once", file=sys.stderr, flush=True)
            self.cache.mkdir(parents=True, exist_ok=True)
            self._extract_into(path, views)

    def augmented(self, split: ShardSet, indices: Integers, epoch: tuple[int, int], batch: int) -> Iterator[Tensor]:
        """Encode random crops of some images, batch by batch, float32; epoch: seed and epoch."""
        views = SingleViews(split, indices, self.size, 1.0, epoch, batch)
        return fetched(map(self.featurizer, batches(views, self.num_workers)))

    def _extract_into(self, path: Path, views: SingleViews) -> None:
        width = 0
        with whole_file(path, shared=True) as part, part.open("wb") as file:
            for result in fetched(map(self.featurizer, batches(views, self.num_workers))):
                found = np.ascontiguousarray(result.numpy(), dtype=np.float32)
                if not width:
                    width = found.shape[1]
                    npy.begin(file, np.float32, (len(views.indices), width))
                file.write(found.data)
            if not width:
                npy.begin(file, np.float32, (0, 0))


@cache
def _code_of_images() -> str:
    """Hash what decodes images and cuts their views: other code gives other features."""
    folder = Path(fused_views.__file__).parent
    return hash_of_files([folder], folder, (".py", ".cpp", ".h"))


def embed_images(encoder: FrozenEncoder, images: Sequence[NDArray[Any]]) -> Features:
    """Encode decoded images of any sizes.

    Args:
        encoder: frozen.
        images: H x W x 3 each, RGB; uint8, or floats from 0 to 1, which are rounded to 8 bits.

    Returns:
        float32, N x D.

    Raises:
        MocoError: an image has another shape or type, or floats beyond 0 … 1, such as 0 … 255 or
            normalized ones.
    """
    spec = encoder.spec
    parts = []
    for first in range(0, len(images), BATCH):
        chunk = [_in_8_bits(image, n) for n, image in enumerate(images[first : first + BATCH], start=first)]
        views = np.stack([center_view(image, spec.image_size, spec.eval_crop_ratio) for image in chunk])
        parts.append(encoder.embed(torch.from_numpy(views).permute(0, 3, 1, 2)).numpy())
    return np.concatenate(parts) if parts else np.zeros((0, spec.feature_dim), dtype=np.float32)


def _in_8_bits(image: NDArray[Any], n: int) -> Pixels:
    """Give a decoded image as uint8; a wrong range would be features of noise, in silence."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise MocoError(f"image {n}: is of shape {image.shape}; give height x width x 3, RGB")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise MocoError(f"image {n}: is of {image.dtype}; give uint8, or floats from 0 to 1")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise MocoError(
            f"image {n}: has {image.dtype} from {low:g} to {high:g}; give floats from 0 to 1, or uint8 from 0 to 255"
            " (.astype(np.uint8))"
        )
    return np.rint(image * 255).astype(np.uint8)


def pixels(images: Tensor) -> Tensor:
    """Give the baseline that learned features must beat: the image itself.

    Args:
        images: uint8, N x 3 x S x S.

    Returns:
        float32 in [0, 1], N x 3 min(S, 32)^2.
    """
    if images.shape[-1] > PIXELS_SIDE:
        side = (PIXELS_SIDE, PIXELS_SIDE)
        images = torch.nn.functional.interpolate(images, side, mode="bilinear", antialias=True)
    return images.flatten(1).float() / 255


def sample_indices(count: int, at_most: int, seed: int) -> Integers:
    """Draw at most `at_most` of range(count) by seed, without repetition, rising; int64."""
    if count <= at_most:
        return np.arange(count)
    return np.sort(permute(np.arange(at_most), count, key_of(seed, 0x5EED)))


@dataclass(frozen=True)
class Labelled:
    """The labelled images of one split: which, and their classes."""

    images: ShardSet
    indices: NDArray[np.int64]
    labels: NDArray[np.int32]

    @classmethod
    def of(cls, images: ShardSet) -> "Labelled":
        """Choose those with a label, in the order of the set."""
        indices = np.flatnonzero(np.asarray(images.labels) >= 0)
        return cls(images, indices, np.asarray(images.labels)[indices])
