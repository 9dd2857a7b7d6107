"""Batches for fine-tuning: the images of a step, and their views, are a function of (seed, step).

Batches of one shape come through the ring of `moco.images.loader`, others as bytes through a pipe:
torch would hand tensors over in /dev/shm, which has 64 MB in a container.
"""

import pickle
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.errors import MocoError
from moco.features.extract import Labelled, SingleViews
from moco.images.decode import Pixels, UndecodableError, decode, orientation, read_encoded, turned
from moco.images.draws import Draws, Uniforms
from moco.images.loader import outlive_signals
from moco.images.loader import steps as ring_of
from moco.images.plan import EpochPlan
from moco.permutation import Integers
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.views import DRAWS, Instances, boxes_view, pixels_view
from moco.transfer.schedules import BoxSizes, LabelSizes, PixelSizes

Target = dict[str, Tensor]
AHEAD = 2
"""Batches that each worker prepares ahead of training."""


class Batch(Protocol):
    """A batch as a worker hands it over."""

    def to(self, device: torch.device) -> tuple[Any, Any]:
        """Move images and targets to the device that computes."""


@dataclass(frozen=True)
class Share:
    """This process's part of the run's global batches.

    Attributes:
        among: int64, the images that are trained on, by their place in the set.
        plan: the order of these images.
        rank: of this process.
        world_size: number of processes.
    """

    among: Integers
    plan: EpochPlan
    rank: int = 0
    world_size: int = 1

    def drawn(self, step: int) -> tuple[Integers, Uniforms]:
        """Draw the images of a step, int64 [N], and the numbers of their views, [N, DRAWS]."""
        samples = self.among[self.plan.batch(step, self.rank, self.world_size)]
        draws = Draws.of(self.plan.seed, self.plan.epoch_of(step), samples, views=1)
        return samples, draws("fine-tuning", DRAWS)[..., 0].T


@dataclass(frozen=True)
class Stacked:
    """Images of one size and what belongs to each.

    Attributes:
        images: uint8, N x 3 x S x S.
        targets: uint8 N x S x S label maps, or int64 [N] classes.
    """

    images: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.images.to(device, non_blocking=True), self.targets.to(device, non_blocking=True)


@dataclass(frozen=True)
class Scattered:
    """Images of any sizes with their objects, concatenated.

    Attributes:
        pixels: uint8; each image H x W x 3, then each image's masks M x H x W if the task has
            masks.
        sizes: height and width of each image.
        counts: M of each image.
        boxes: float32 [sum of M, 4].
        labels: int64 [sum of M], 1 … C.
        keypoints: float32 [sum of M, K, 3], or None.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    counts: list[int]
    boxes: Tensor
    labels: Tensor
    keypoints: Tensor | None

    @classmethod
    def of(cls, views: list[tuple[Pixels, Instances]]) -> "Scattered":
        """Concatenate views; all have masks, or none; all have keypoints, or none."""
        found = [instances for _, instances in views]
        parts = [image.reshape(-1) for image, _ in views]
        parts += [each.masks.reshape(-1) for each in found if each.masks is not None]
        keypoints = [each.keypoints for each in found if each.keypoints is not None]
        return cls(
            torch.from_numpy(np.concatenate(parts)),
            [(image.shape[0], image.shape[1]) for image, _ in views],
            [len(each.labels) for each in found],
            torch.from_numpy(np.concatenate([each.boxes for each in found])),
            torch.from_numpy(np.concatenate([each.labels for each in found])),
            torch.from_numpy(np.concatenate(keypoints)) if keypoints else None,
        )

    def to(self, device: torch.device) -> tuple[list[Tensor], list[Target]]:
        """Give images, uint8 3 x H x W, and their targets, as torchvision takes them."""
        pixels = self.pixels.to(device, non_blocking=True)
        images, first = [], 0
        for height, width in self.sizes:
            end = first + height * width * 3
            images.append(pixels[first:end].view(height, width, 3).permute(2, 0, 1))
            first = end
        columns = {"boxes": self.boxes, "labels": self.labels}
        if self.keypoints is not None:
            columns["keypoints"] = self.keypoints
        parts = {name: column.to(device, non_blocking=True).split(self.counts) for name, column in columns.items()}
        targets = [{name: part[i] for name, part in parts.items()} for i in range(len(images))]
        if first < len(pixels):
            for target, (height, width), count in zip(targets, self.sizes, self.counts, strict=True):
                end = first + count * height * width
                target["masks"] = pixels[first:end].view(count, height, width)
                first = end
        return images, targets


@dataclass(frozen=True)
class BoxBatches(Dataset[Scattered]):
    """Item n is this process's batch of step n, for detectors.

    Attributes:
        images: the training set, as `moco.transfer.data.trainable` leaves it.
        share: of it, at each step.
        sizes: of images.
        masks: whether targets hold the objects' masks.
        keypoints: whether targets hold their keypoints.
    """

    images: AnnotatedSet
    share: Share
    sizes: BoxSizes
    masks: bool
    keypoints: bool

    def __getitem__(self, step: int) -> Scattered:
        samples, numbers = self.share.drawn(step)
        return Scattered.of(
            [
                boxes_view(
                    read_pixels(self.images, n),
                    self._instances(n),
                    u,
                    self.sizes,
                    self.images.flip_pairs,
                    self.images.each_mask(n) if self.masks else None,
                )
                for n, u in zip(samples.tolist(), numbers, strict=True)
            ]
        )

    def _instances(self, n: int) -> Instances:
        where = self.images.instances(n)
        keypoints = None
        if self.keypoints and self.images.keypoints is not None:
            keypoints = self.images.keypoints[where].astype(np.float32)
            keypoints[..., :2] += 0.5  # COCO numbers pixels; here the edge is 0
        return Instances(self.images.boxes[where], self.images.labels[where] + 1, keypoints=keypoints)


@dataclass(frozen=True)
class PixelBatches(Dataset[Stacked]):
    """Item n is this process's batch of step n, for semantic segmentation; see `BoxBatches`."""

    images: AnnotatedSet
    share: Share
    sizes: PixelSizes

    def __getitem__(self, step: int) -> Stacked:
        samples, numbers = self.share.drawn(step)
        views = [
            pixels_view(read_pixels(self.images, n), self.images.label_map(n), u, self.sizes)
            for n, u in zip(samples.tolist(), numbers, strict=True)
        ]
        images = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2)
        return Stacked(images, torch.from_numpy(np.stack([labels for _, labels in views])))


@dataclass(frozen=True)
class LabelBatches:
    """This process's batches for classification: random resized crops and flips, and classes.

    Attributes:
        images: the labelled training images; the share is of their places in `images.indices`.
        share: of them, at each step.
        sizes: of the crops.
    """

    images: Labelled
    share: Share
    sizes: LabelSizes
    per_image = 1

    @property
    def count(self) -> int:
        """N, images of a batch."""
        return self.share.plan.global_batch // self.share.world_size

    @property
    def size(self) -> int:
        """S, pixels."""
        return self.sizes.crop_size

    def fill(self, step: int, rows: slice, batch: Pixels) -> None:
        """Make some rows of the images of a step, uint8 1 x N x S x S x 3."""
        places, _ = self.share.drawn(step)
        epoch = (self.share.plan.seed, self.share.plan.epoch_of(step))
        views = SingleViews(self.images.images, self.images.indices[places], self.size, 1.0, epoch, self.count)
        views.fill(0, rows, batch)

    def labels(self, step: int) -> Tensor:
        """Give the classes of a step's images, int64 [N]."""
        places, _ = self.share.drawn(step)
        return torch.from_numpy(self.images.labels[places].astype(np.int64))


@dataclass(frozen=True)
class _AsBytes(Dataset[bytes]):
    batches: Dataset[Any]

    def __getitem__(self, step: int) -> bytes:
        return pickle.dumps(self.batches[step])


def read_pixels(images: AnnotatedSet, n: int) -> Pixels:
    """Read image n, as stored or turned by its EXIF orientation, as its annotations are for.

    Returns:
        uint8 H x W x 3.

    Raises:
        MocoError: it is missing, damaged, or of another size than its annotations state.
    """
    path = images.paths[n]
    height, width = images.sizes[n].tolist()
    try:
        data = read_encoded(path)
        image = decode(data, as_stored=True)
        if image.shape[:2] != (height, width):
            image = turned(image, orientation(data))
    except OSError as error:
        raise MocoError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    except UndecodableError as error:
        raise MocoError(f"{path}: {error}; restore it") from None
    if image.shape[:2] != (height, width):
        raise MocoError(
            f"{path}: has {image.shape[1]} x {image.shape[0]} pixels, its annotations in {images.name} are for {width} x"
            f" {height}; restore it"
        )
    return image


def steps(
    batches: Dataset[Any] | LabelBatches, first: int, last: int, num_workers: int, device: torch.device
) -> Generator[tuple[Any, Any]]:
    """Load images and targets of steps first to last - 1, in order; any first step costs the same.

    Args:
        batches: item n is the batch of step n.
        first: the first step.
        last: the step after the last one.
        num_workers: processes that prepare batches ahead; 0: this process makes each when it is
            due.
        device: where the batches go.
    """
    if isinstance(batches, LabelBatches):
        for step, images in enumerate(ring_of(batches, first, last, num_workers, device), start=first):
            yield images[0], batches.labels(step).to(device)
        return
    loader = DataLoader(
        _AsBytes(batches),
        batch_size=None,
        sampler=range(first, last),
        num_workers=num_workers,
        prefetch_factor=AHEAD if num_workers else None,
        worker_init_fn=outlive_signals,
    )
    items = iter(loader)
    try:
        for item in items:
            yield cast(Batch, pickle.loads(item)).to(device)
    except MocoError as error:  # a worker puts its traceback around the message
        text = str(error).strip().rsplit("\n", 1)[-1]
        raise MocoError(text.removeprefix("moco.errors.MocoError: ")) from None
    finally:  # else workers live as long as a traceback holds the iterator, and ignore signals
        if num_workers:
            items._shutdown_workers()  # type: ignore[attr-defined]  # no public name for it
