"""Linear classification on frozen features (paper, section 4.1): all learning rates in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.config import Linear
from moco.features.extract import Extractor, Features, Labelled
from moco.features.knn import knn_predict
from moco.permutation import key_of, permute
from moco.progress import Progress

Labels = NDArray[np.int32]


class LinearProbes:
    """One linear classifier for each learning rate, all trained on the same batches.

    The classifiers share every matrix product, and the softmax's gradient is written out, so ten
    cost little more than one.

    Args:
        feature_dim: D.
        classes: C.
        settings: learning rates, momentum, weight decay, seed.
    """

    def __init__(self, feature_dim: int, classes: int, settings: Linear) -> None:
        self.settings, self.classes = settings, classes
        rates = len(settings.learning_rates)
        generator = torch.Generator().manual_seed(settings.seed)
        # every rate starts from the same N(0, 0.01) weights and zero bias
        start = 0.01 * torch.randn(classes, feature_dim, generator=generator)
        self.weight = start.repeat(rates, 1)  # (L C) x D
        self.bias = torch.zeros(rates * classes)
        self._weight_motion = torch.zeros_like(self.weight)
        self._bias_motion = torch.zeros_like(self.bias)
        self._rates = torch.tensor(settings.learning_rates).repeat_interleave(classes)

    def logits(self, features: Tensor) -> Tensor:
        """Compute the logits of float32 features N x D: N x L x C."""
        flat = torch.addmm(self.bias, features, self.weight.T)
        return flat.view(len(features), -1, self.classes)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, decay: float) -> None:
        """Take one step of SGD with momentum for every classifier, at its rate times `decay`.

        Args:
            features: float32, N x D.
            labels: int64 [N].
            decay: the schedule's factor, 1, 0.1 or 0.01.
        """
        gradient = self.logits(features).softmax(dim=2)
        gradient[torch.arange(len(labels)), :, labels] -= 1  # d loss / d logits
        gradient = gradient.flatten(1).div_(len(labels))
        weight_gradient = (gradient.T @ features).add_(self.weight, alpha=self.settings.weight_decay)
        bias_gradient = gradient.sum(dim=0).add_(self.bias, alpha=self.settings.weight_decay)
        self._weight_motion.mul_(self.settings.sgd_momentum).add_(weight_gradient)
        self._bias_motion.mul_(self.settings.sgd_momentum).add_(bias_gradient)
        self.weight.addcmul_(self._rates[:, None], self._weight_motion, value=-decay)
        self.bias.addcmul_(self._rates, self._bias_motion, value=-decay)

    def ranked(self, features: Features, at_most: int = 5) -> NDArray[np.int64]:
        """Rank the most likely classes of each row for each rate: int64 N x L x min(at_most, C)."""
        parts = []
        for block in torch.from_numpy(features).split(4096):
            scores = self.logits(block).nan_to_num(nan=float("-inf"))  # a rate that diverged predicts nothing well
            parts.append(scores.topk(min(at_most, self.classes), dim=2).indices)
        return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Evaluation:
    """What one kind of features is worth.

    Attributes:
        val_top1: top-1 accuracy on validation for each learning rate, fractions of 1.
        learning_rate: the best of them there (the smallest of equals).
        linear_top1: top-1 accuracy on the test split at that rate, once.
        linear_top5: top-5 accuracy there.
        knn_top1: weighted kNN there, the bank being the labelled training images.
        predicted: int64 [N], the linear classifier's class for each test image.
    """

    val_top1: list[float]
    learning_rate: float
    linear_top1: float
    linear_top5: float
    knn_top1: float
    predicted: NDArray[np.int64]


def train_probes(extractor: Extractor, train: Labelled, settings: Linear) -> tuple[LinearProbes, Features]:
    """Train a classifier for each learning rate on the labelled training images.

    Returns:
        The classifiers, and the features of the training images' center views.
    """
    center = extractor.center(train.images, train.indices)
    probes = LinearProbes(center.shape[1], len(train.images.classes), settings)
    progress = Progress("linear", settings.epochs)
    for epoch in range(settings.epochs):
        decay = 0.1 ** sum(epoch >= share * settings.epochs for share in (0.6, 0.8))
        order = permute(np.arange(len(train.labels)), len(train.labels), key_of(settings.seed, epoch))
        for features, labels in _epoch(extractor, train, settings, center, order, epoch):
            probes.step(features, labels, decay)
        progress.update(
            epoch + 1,
            f"{extractor.name}: epoch {epoch + 1}/{settings.epochs}, {len(settings.learning_rates)} learning rates at once",
        )
    return probes, center


def _epoch(
    extractor: Extractor, train: Labelled, settings: Linear, center: Features, order: NDArray[np.int64], epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    labels = torch.from_numpy(train.labels[order].astype(np.int64)).split(settings.batch_size)
    if settings.views == "center":
        everything = torch.from_numpy(center)
        # row by row of a batch: a shuffled copy of all features would cost more than the training
        features = (everything[rows] for rows in torch.from_numpy(order).split(settings.batch_size))
        yield from zip(features, labels, strict=True)
    else:
        chosen = train.indices[order]
        found = extractor.augmented(train.images, chosen, (settings.seed, epoch), settings.batch_size)
        yield from zip(found, labels, strict=True)


def validation_accuracies(extractor: Extractor, probes: LinearProbes, val: Labelled) -> list[float]:
    """Measure top-1 accuracy on the validation split for each learning rate."""
    ranked = probes.ranked(extractor.center(val.images, val.indices), at_most=1)
    return [float(accuracy) for accuracy in (ranked[:, :, 0] == val.labels[:, None]).mean(axis=0)]


def evaluate(extractor: Extractor, train: Labelled, val: Labelled, test: Labelled, settings: Linear) -> Evaluation:
    """Evaluate one kind of features: train, choose on validation, score the test split once."""
    probes, bank = train_probes(extractor, train, settings)
    val_top1 = validation_accuracies(extractor, probes, val)
    best = int(np.argmax(val_top1))
    features = extractor.center(test.images, test.indices)
    ranked = probes.ranked(features)[:, best]
    neighbors = knn_predict(
        features, bank, train.labels, len(train.images.classes), settings.knn_k, settings.knn_temperature
    )
    return Evaluation(
        val_top1=val_top1,
        learning_rate=settings.learning_rates[best],
        linear_top1=float((ranked[:, 0] == test.labels).mean()),
        linear_top5=float((ranked == test.labels[:, None]).any(axis=1).mean()),
        knn_top1=float((neighbors == test.labels).mean()),
        predicted=ranked[:, 0],
    )
