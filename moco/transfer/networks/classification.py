"""Classification by a fine-tuned network (paper, section 4.2), on all labels or a share of them."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from moco.encoders.normalize import normalize
from moco.encoders.start import Start
from moco.features.extract import Labelled, SingleViews, apply
from moco.permutation import key_of, permute
from moco.processes import Processes
from moco.transfer.schedules import LabelSizes


class Classifier(nn.Module):
    """An encoder and a linear layer on its features.

    Args:
        start: its network is copied.
        num_classes: C.
        seed: of the linear layer, N(0, 0.01) with bias 0.
    """

    def __init__(self, start: Start, num_classes: int, seed: int) -> None:
        super().__init__()
        self.mean, self.std = start.mean, start.std
        self.network = copy.deepcopy(start.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fc = nn.Linear(self.network.feature_dim, num_classes)
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, uint8 N x 3 x S x S: logits N x C, float32 at least."""
        x = normalize(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.fc(self.network(x))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def share_of_labels(images: Labelled, fraction: float, seed: int) -> Labelled:
    """Choose a share of each class's images by seed; a larger share holds the smaller one.

    Args:
        images: labelled.
        fraction: in (0, 1], rounded to whole images of each class, one at least.
        seed: of the choice.
    """
    chosen = []
    for label in np.unique(images.labels):
        places = np.flatnonzero(images.labels == label)
        count = max(1, round(fraction * len(places)))
        order = permute(np.arange(count), len(places), key_of(seed, int(label)))
        chosen.append(places[order])
    kept = np.sort(np.concatenate(chosen)) if chosen else np.arange(0)
    return Labelled(images.images, images.indices[kept], images.labels[kept])


def accuracies(
    model: nn.Module, images: Labelled, sizes: LabelSizes, processes: Processes, num_workers: int
) -> dict[str, float]:
    """Measure top-1 and top-5 accuracy on central squares, as fractions of 1.

    Args:
        model: a `Classifier` in evaluation mode, on this process's device.
        images: a split; each image is classified once, by one of the processes.
        sizes: of the central square.
        processes: share the work.
        num_workers: loader processes of each.
    """
    mine = np.arange(processes.rank, len(images.labels), processes.world_size)
    ratio = min(1.0, sizes.crop_size / sizes.test_short_side)
    views = SingleViews(images.images, images.indices[mine], sizes.crop_size, ratio)

    def ranked(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = model(batch.to(processes.device))
            return logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()

    right = 0, 0
    if len(mine):
        found = apply(ranked, views, num_workers) == images.labels[mine][:, None]
        right = int(found[:, 0].sum()), int(found.any(axis=1).sum())
    top1, top5 = (sum(counts) for counts in zip(*processes.gather_objects(right), strict=True))
    return {"top1": top1 / len(images.labels), "top5": top5 / len(images.labels)}
