"""Predictions for a whole set: each image once, in its own pixels, shared by the processes."""

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from moco.images.views import resize
from moco.permutation import Integers
from moco.processes import Processes
from moco.progress import Progress
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.loader import Stacked, read_pixels, steps
from moco.transfer.data.views import fitted
from moco.transfer.metrics.segmentation import confusion
from moco.transfer.networks.roi_heads import paste_masks
from moco.transfer.schedules import BoxSizes

Columns = dict[str, NDArray[Any] | list[dict[str, Any]]]


@dataclass(frozen=True)
class _TestImages(Dataset[Stacked]):
    """Item i is one image, alone, and for semantic segmentation its label map.

    Attributes:
        images: the set.
        mine: int64, those of this process.
        sizes: that they are resized to; None: they keep theirs, and have label maps.
    """

    images: AnnotatedSet
    mine: Integers
    sizes: BoxSizes | None

    def __getitem__(self, i: int) -> Stacked:
        n = int(self.mine[i])
        image = read_pixels(self.images, n)
        if self.sizes is None:
            labels = torch.from_numpy(self.images.label_map(n)[None])
        else:
            size = fitted(image.shape[:2], self.sizes.test_short_side, self.sizes.long_side)
            image, labels = resize(image, *size), torch.empty(1, 0, 0, dtype=torch.uint8)
        return Stacked(torch.from_numpy(image).permute(2, 0, 1)[None], labels)


@torch.inference_mode()
def detect(
    model: nn.Module, images: AnnotatedSet, sizes: BoxSizes, processes: Processes, num_workers: int
) -> Detections:
    """Run a detector over a set, in float32.

    Args:
        model: of `moco.transfer.networks.detectors`, in evaluation mode, on this process's device.
        images: the set.
        sizes: short side and longest side of test images.
        processes: share the work.
        num_workers: loader processes of each.

    Returns:
        All detections in the order of the images, on every process.
    """
    mine = np.arange(processes.rank, len(images), processes.world_size)
    progress, found = Progress("predict", len(mine)), []
    with closing(steps(_TestImages(images, mine, sizes), 0, len(mine), num_workers, processes.device)) as data:
        for done, (n, (image, _)) in enumerate(zip(mine.tolist(), data, strict=True), start=1):
            found.append((n, _columns(_detect(model, image[0], images.sizes[n].tolist()))))
            if processes.first:
                progress.update(done, f"{done} of {len(mine)} images of {images.name}")
    together = [pair for part in processes.gather_objects(found) for pair in part]
    together.sort(key=lambda pair: pair[0])
    return _joined(together)


def _detect(model: Any, image: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Detect in uint8 3 x H x W: boxes and masks in pixels of the original size."""
    batch, _ = model.transform([image])
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    found: dict[str, Tensor] = model.roi_heads(features, proposals, batch.image_sizes)[0][0]
    factors = found["boxes"].new_tensor([size[1] / image.shape[2], size[0] / image.shape[1]])
    found["boxes"] = found["boxes"] * factors.repeat(2)
    if "masks" in found:
        found["masks"] = paste_masks(found["masks"][:, 0], found["boxes"], size)
    if "keypoints" in found:
        found["keypoints"][..., :2] *= factors
        found["keypoints"][..., :2] -= 0.5  # COCO's pixel in the corner is 0, 0
    return found


def _columns(found: dict[str, Tensor]) -> Columns:
    columns: Columns = {name: found[name].cpu().numpy() for name in ("boxes", "scores")}
    columns["labels"] = found["labels"].cpu().numpy() - 1
    if "keypoints" in found:
        columns["keypoints"] = found["keypoints"].float().cpu().numpy()
    if "masks" in found:
        from faster_coco_eval.core import mask

        columns["segments"] = mask.encode(np.asfortranarray(found["masks"].permute(1, 2, 0).cpu().numpy()))
    return columns


def _joined(found: list[tuple[int, Columns]]) -> Detections:
    if not found:
        return Detections(
            np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )
    numbers = [np.full(len(columns["labels"]), n, np.int64) for n, columns in found]
    columns = {name: np.concatenate([each[name] for _, each in found]) for name in found[0][1] if name != "segments"}
    segments = None
    if "segments" in found[0][1]:
        segments = [segment for _, each in found for segment in each["segments"]]
    return Detections(image=np.concatenate(numbers), segments=segments, **columns)


@dataclass(frozen=True)
class Segmented:
    """Predictions of a network for semantic segmentation.

    Attributes:
        confusion: int64 [C, C], pixels by true class (rows) and predicted class.
        label_maps: of the images in `shown`, uint8 H x W.
    """

    confusion: NDArray[np.int64]
    label_maps: dict[int, NDArray[np.uint8]]


@torch.inference_mode()
def segment(
    model: nn.Module, images: AnnotatedSet, processes: Processes, num_workers: int, shown: Collection[int] = ()
) -> Segmented:
    """Run a network for semantic segmentation over a set at the images' own sizes, in float32.

    Args:
        model: of `moco.transfer.networks.fcn`, in evaluation mode, on this process's device.
        images: with label maps.
        processes: share the work.
        num_workers: loader processes of each.
        shown: images whose predicted label maps are wanted.

    Returns:
        The same on every process.
    """
    mine = np.arange(processes.rank, len(images), processes.world_size)
    classes = len(images.semantic_classes)
    counts, maps = np.zeros((classes, classes), np.int64), {}
    progress = Progress("predict", len(mine))
    with closing(steps(_TestImages(images, mine, None), 0, len(mine), num_workers, processes.device)) as data:
        for done, (n, (image, truth)) in enumerate(zip(mine.tolist(), data, strict=True), start=1):
            predicted = model(image).argmax(dim=1)[0].short().cpu().numpy()
            counts += confusion(truth[0].cpu().numpy(), predicted, classes)
            if n in shown:
                maps[n] = predicted.astype(np.uint8)
            if processes.first:
                progress.update(done, f"{done} of {len(mine)} images of {images.name}")
    parts = processes.gather_objects((counts, maps))
    everything = {n: label_map for _, some in parts for n, label_map in some.items()}
    return Segmented(sum(each for each, _ in parts), dict(sorted(everything.items())))
