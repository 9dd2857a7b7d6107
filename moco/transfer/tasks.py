"""What differs between the tasks while they are trained: images, batches, model and losses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from moco.encoders.start import Start
from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.permutation import Integers
from moco.processes import Processes
from moco.transfer.config import Classification, Detector, Semantic, Training
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.loader import BoxBatches, LabelBatches, PixelBatches, Share
from moco.transfer.data.trainable import trainable, with_objects
from moco.transfer.networks.classification import Classifier, share_of_labels
from moco.transfer.networks.detectors import detector
from moco.transfer.networks.fcn import FCN, IGNORED
from moco.transfer.schedules import BoxSizes, LabelSizes, PixelSizes, schedule_of, sizes_of
from moco.transfer.sets import TrainingSet

Losses = dict[str, Tensor]
NETWORK = {"width", "anchor_sizes", "roi_size", "rois_per_image", "proposals_train", "proposals_test"}
"""Settings that are passed on to the network, if the task has them and the file gives them."""


@dataclass(frozen=True)
class Task:
    """One task on one training set.

    Attributes:
        among: int64, which images are trained on.
        batches: makes the batches of a process's share of them.
        model: makes the model.
        losses: of images and targets from the batches, by name; training minimizes their sum.
    """

    among: Integers
    batches: Callable[[Share], Dataset[Any] | LabelBatches]
    model: Callable[[], nn.Module]
    losses: Callable[[nn.Module, Any, Any], Losses]


class Objective(nn.Module):
    """A model and its losses as one module, which DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, losses: Callable[[nn.Module, Any, Any], Losses]) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, images: Any, targets: Any) -> Losses:
        """Compute the losses, by name."""
        return self.losses(self.model, images, targets)


def task_of(settings: Training, training: TrainingSet, start: Start, seed: int, processes: Processes) -> Task:
    """Build the task that the settings name.

    Args:
        settings: of the run.
        training: an `AnnotatedSet`; labelled images of a shard set for classification.
        start: the weights to start from.
        seed: of the trial.
        processes: who share a step.

    Raises:
        MocoError: the training set lacks what the task needs.
    """
    if isinstance(settings, Classification):
        if not isinstance(training, Labelled):
            raise MocoError("classification needs a shard set with labels; make one with `dvc repro shard`")
        return _classification(settings, training, start, seed)
    if isinstance(training, Labelled):
        raise MocoError(f"{settings.task} needs annotated images; name a VOC, COCO or Cityscapes set")
    if isinstance(settings, Semantic):
        return _semantic(settings, training, start, seed, processes)
    assert isinstance(settings, Detector)
    return _detector(settings, training, start, seed)


def _classification(settings: Classification, training: Labelled, start: Start, seed: int) -> Task:
    chosen = share_of_labels(training, settings.label_fraction, seed)
    sizes = sizes_of(settings, LabelSizes)
    return Task(
        np.arange(len(chosen.labels)),
        lambda share: LabelBatches(chosen, share, sizes),
        lambda: Classifier(start, len(training.images.classes), seed),
        lambda model, images, labels: {"loss": F.cross_entropy(model(images), labels)},
    )


def _semantic(settings: Semantic, training: AnnotatedSet, start: Start, seed: int, processes: Processes) -> Task:
    if training.label_maps is None:
        raise MocoError(f"{training.name} has no label maps, which task semantic is trained on; choose another task")
    sizes = sizes_of(settings, PixelSizes)

    def losses(model: FCN, images: Tensor, label_maps: Tensor) -> Losses:
        loss = model.loss(images, label_maps)
        if processes.world_size > 1:  # a mean over all processes' pixels; some have more than others
            own = (label_maps != IGNORED).sum().to(loss.dtype)
            loss = loss * own / processes.mean_(own.clone(), processes.in_step).clamp(min=1)
        return {"loss": loss}

    return Task(
        np.arange(len(training)),
        lambda share: PixelBatches(training, share, sizes),
        lambda: FCN(start, len(training.semantic_classes), seed, **_network(settings)),
        losses,  # type: ignore[arg-type]  # of the model above
    )


def _detector(settings: Detector, training: AnnotatedSet, start: Start, seed: int) -> Task:
    masks, keypoints = settings.task == "instances", settings.task == "keypoints"
    for wanted, there, name in (
        (masks, training.segments is not None, "segments"),
        (keypoints, training.keypoints is not None, "keypoints"),
    ):
        if wanted and not there:
            raise MocoError(
                f"{training.name} has no {name}, which task {settings.task} is trained on; choose another task"
            )
    usable, sizes = trainable(training, masks), sizes_of(settings, BoxSizes)

    def model() -> nn.Module:
        return detector(
            settings.task,  # type: ignore[arg-type]
            settings.neck,
            start,
            len(training.classes),
            seed=seed,
            num_keypoints=len(training.keypoint_names) if keypoints else 0,
            **_network(settings),
        )

    return Task(
        with_objects(usable, keypoints),
        lambda share: BoxBatches(usable, share, sizes, masks, keypoints),
        model,
        lambda detector, images, targets: detector(images, targets),
    )


def _network(settings: Training) -> dict[str, Any]:
    """Pick the options of the network that the settings give."""
    return settings.model_dump(include=NETWORK, exclude_none=True)


def optimizer_of(model: nn.Module, settings: Training) -> torch.optim.SGD:
    """Build SGD with momentum 0.9; a group's rate is the schedule's times its `factor`.

    Detectors do not decay the weights of batch norm (Detectron2's WEIGHT_DECAY_NORM = 0); a
    schedule may give the new classifier a rate of its own.
    """
    schedule = schedule_of(settings)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(schedule.sizes, BoxSizes)
            new = isinstance(model, Classifier) and module is model.fc
            key = (schedule.new_layer_rate if new else 1.0, 0.0 if norm else schedule.weight_decay)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.SGD(
        [{"params": those, "factor": factor, "weight_decay": decay} for (factor, decay), those in groups.items()],
        lr=0.0,
        momentum=0.9,
        fused=next(model.parameters()).is_cuda,
    )
