"""What differs between the tasks while they are trained: images, batches, model and losses. The loop is one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.permutation import Integers
from moco.processes import Processes
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.data.loader import BoxBatches, LabelBatches, PixelBatches, Share, trainable, with_objects
from moco.transfer.networks.classification import Classifier, share_of_labels
from moco.transfer.networks.detectors import detector
from moco.transfer.networks.fcn import FCN, IGNORED, fcn
from moco.transfer.networks.initialization import Backbone
from moco.transfer.schedules import BoxSizes, LabelSizes, PixelSizes
from moco.transfer.settings import Transfer, schedule_of, sizes_of

TrainingSet = AnnotatedSet | Labelled
Losses = dict[str, Tensor]


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
    batches: Callable[[Share], Dataset[Any]]
    model: Callable[[], nn.Module]
    losses: Callable[[nn.Module, Any, Any], Losses]


class Objective(nn.Module):
    """A model and its losses as one module, which DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, losses: Callable[[nn.Module, Any, Any], Losses]) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, images: Any, targets: Any) -> Losses:
        """Losses by name."""
        return self.losses(self.model, images, targets)


def task_of(settings: Transfer, training: TrainingSet, backbone: Backbone, seed: int, processes: Processes) -> Task:
    """The task that the settings name.

    Args:
        settings: of the run.
        training: an `AnnotatedSet`; labelled images of a shard set for classification.
        backbone: to start from.
        seed: of the trial.
        processes: who share a step.

    Raises:
        MocoError: the training set has not what the task needs.
    """
    if isinstance(training, Labelled):
        if settings.task != "classification":
            raise MocoError(
                f"transfer.task = {settings.task} needs annotated images; name a VOC, COCO or Cityscapes set"
            )
        return _classification(settings, training, backbone, seed)
    if settings.task == "classification":
        raise MocoError("transfer.task = classification needs a shard set with labels; make one with `dvc repro shard`")
    if settings.task == "semantic":
        return _semantic(settings, training, backbone, seed, processes)
    return _detector(settings, training, backbone, seed)


def _classification(settings: Transfer, training: Labelled, backbone: Backbone, seed: int) -> Task:
    chosen = share_of_labels(training, settings.label_fraction, seed)
    sizes = sizes_of(settings, LabelSizes)
    return Task(
        np.arange(len(chosen.labels)),
        lambda share: LabelBatches(chosen, share, sizes),
        lambda: Classifier(backbone, len(training.images.classes), seed),
        lambda model, images, labels: {"loss": F.cross_entropy(model(images), labels)},
    )


def _semantic(settings: Transfer, training: AnnotatedSet, backbone: Backbone, seed: int, processes: Processes) -> Task:
    if training.label_maps is None:
        raise MocoError(
            f"{training.name} has no label maps, which transfer.task = semantic is trained on; choose another task"
        )
    sizes = sizes_of(settings, PixelSizes)

    def losses(model: FCN, images: Tensor, label_maps: Tensor) -> Losses:
        loss = model.loss(images, label_maps)
        if processes.world_size > 1:  # a mean over all processes' pixels, of which some have more than others
            own = (label_maps != IGNORED).sum().to(loss.dtype)
            loss = loss * own / processes.mean_(own.clone(), processes.in_step).clamp(min=1)
        return {"loss": loss}

    return Task(
        np.arange(len(training)),
        lambda share: PixelBatches(training, share, sizes),
        lambda: fcn(backbone, len(training.semantic_classes), seed, **settings.heads()),
        losses,  # type: ignore[arg-type]  # of the model above
    )


def _detector(settings: Transfer, training: AnnotatedSet, backbone: Backbone, seed: int) -> Task:
    assert settings.task in ("detection", "instances", "keypoints") and settings.neck is not None
    masks, keypoints = settings.task == "instances", settings.task == "keypoints"
    for wanted, there, name in (
        (masks, training.segments is not None, "segments"),
        (keypoints, training.keypoints is not None, "keypoints"),
    ):
        if wanted and not there:
            raise MocoError(
                f"{training.name} has no {name}, which transfer.task = {settings.task} is trained on; choose another task"
            )
    usable, sizes = trainable(training, masks), sizes_of(settings, BoxSizes)

    def model() -> nn.Module:
        return detector(
            settings.task,  # type: ignore[arg-type]
            settings.neck,  # type: ignore[arg-type]
            backbone,
            len(training.classes),
            seed=seed,
            num_keypoints=len(training.keypoint_names) if keypoints else 0,
            **settings.heads(),
        )

    return Task(
        with_objects(usable, keypoints),
        lambda share: BoxBatches(usable, share, sizes, masks, keypoints),
        model,
        lambda detector, images, targets: detector(images, targets),
    )


def optimizer_of(model: nn.Module, settings: Transfer) -> torch.optim.SGD:
    """SGD with momentum .9 in groups; the rate of a group is the schedule's times the group's `factor`.

    Detectors do not decay the weights of batch norm (Detectron2's WEIGHT_DECAY_NORM = 0); a schedule may give the new
    classifier a rate of its own.
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
