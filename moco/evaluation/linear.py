"""Linear classification on frozen features (paper, section 4.1): all learning rates in one pass."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.config import Linear
from moco.devices import full_precision
from moco.errors import MocoError
from moco.features.extract import Extractor, Features, Labelled
from moco.features.knn import knn_predict
from moco.features.placing import ON_CPU, Devices, fetched, placed
from moco.features.usable import COLLAPSED, DIVERGED, NOT_TRAINED, require_different, require_finite
from moco.permutation import key_of, permute
from moco.progress import Progress

Labels = NDArray[np.int32]
PRETRAINED = "moco"
"""Name of the features whose faults pretraining can correct; others are compared with them."""
NEGLIGIBLE = 1e-20
"""Probability of a wrong class below which it teaches nothing: float32 weights keep 7 digits."""


class LinearProbes:
    """One linear classifier for each learning rate, all trained on the same batches.

    The classifiers share every matrix product, and the softmax's gradient is written out, so ten
    cost little more than one. They take 8 L C D bytes, and a step 8 N L C beside them: at L = 6
    rates of C = 1,000 classes and D = 2,048, 98 MB, and 12 MB for N = 256 images.

    Args:
        feature_dim: D.
        classes: C.
        settings: learning rates, momentum, weight decay, seed.
        device: that computes.
    """

    def __init__(self, feature_dim: int, classes: int, settings: Linear, device: torch.device = ON_CPU[0]) -> None:
        self.settings, self.classes, self.device = settings, classes, device
        rates = len(settings.learning_rates)
        generator = torch.Generator().manual_seed(settings.seed)
        # every rate starts from the same N(0, 0.01) weights and zero bias
        start = 0.01 * torch.randn(classes, feature_dim, generator=generator)
        self.weight = start.to(device).repeat(rates, 1)  # (L C) x D
        self.bias = torch.zeros(rates * classes, device=device)
        # the motion holds the rate, so that a product adds a step's gradients to it in place
        self._weight_motion = torch.zeros_like(self.weight)
        self._bias_motion = torch.zeros_like(self.bias)
        self._rates = torch.tensor(settings.learning_rates, device=device).repeat_interleave(classes)

    def logits(self, features: Tensor) -> Tensor:
        """Compute the logits of float32 features N x D on the probes' device: N x L x C."""
        with full_precision():
            flat = torch.addmm(self.bias, features, self.weight.T)
        return flat.view(len(features), -1, self.classes)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, decay: float) -> None:
        """Take one step of SGD with momentum for every classifier, at its rate times `decay`.

        Args:
            features: float32, N x D, on any device, as labels.
            labels: int64 [N].
            decay: the schedule's factor, 1, 0.1 or 0.01.
        """
        features, labels = (part.to(self.device, non_blocking=True) for part in (features, labels))
        momentum, weight_decay = self.settings.sgd_momentum, self.settings.weight_decay
        # at high rates most probabilities are too small for float32's normal numbers, and a CPU
        # multiplies such ones many times slower; zeros leave every weight the same, to rounding
        gradient = torch.threshold_(self.logits(features).softmax(dim=2), NEGLIGIBLE, 0)
        gradient[torch.arange(len(labels), device=self.device), :, labels] -= 1  # d loss / d logits
        gradient = gradient.flatten(1).mul_(self._rates / len(labels))
        with full_precision():
            self._weight_motion.addmm_(gradient.T, features, beta=momentum)
        self._bias_motion.mul_(momentum).add_(gradient.sum(dim=0))
        if weight_decay:
            self._weight_motion.addcmul_(self._rates[:, None], self.weight, value=weight_decay)
            self._bias_motion.addcmul_(self._rates, self.bias, value=weight_decay)
        self.weight.sub_(self._weight_motion, alpha=decay)
        self.bias.sub_(self._bias_motion, alpha=decay)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Tell which rates' classifiers are still finite, bool [L].

        Their squares too: logits of larger weights overflow.
        """
        squares = self.weight.square().sum(dim=1) + self.bias.square()
        found: NDArray[np.bool_] = torch.isfinite(squares).view(-1, self.classes).all(dim=1).cpu().numpy()
        return found

    def ranked(self, features: Features, at_most: int = 5) -> NDArray[np.int64]:
        """Rank the most likely classes of each row for each rate: int64 N x L x min(at_most, C).

        4096 rows at a time: 98 MB of logits at L = 6 and C = 1,000.
        """

        def best(block: Tensor) -> Tensor:
            return self.logits(block.to(self.device)).topk(min(at_most, self.classes), dim=2).indices

        return torch.cat(list(fetched(map(best, torch.from_numpy(features).split(4096))))).numpy()


Probes = Sequence[LinearProbes]
"""The learning rates in order, some on each device."""


@dataclass(frozen=True)
class Evaluation:
    """What one kind of features is worth.

    Attributes:
        val_top1: top-1 accuracy on validation for each learning rate, fractions of 1; NaN where the
            classifier diverged.
        learning_rate: the best of them there (the first of equals).
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


def train_probes(
    extractor: Extractor, train: Labelled, settings: Linear, devices: Devices = ON_CPU
) -> tuple[Probes, Features]:
    """Train a classifier for each learning rate on the labelled training images.

    Args:
        extractor: makes the features.
        train: images and classes.
        settings: of the classifiers.
        devices: share the learning rates. A GPU whose free memory holds the features of center
            views (ImageNet: 10.5 GB) copies them once; else it takes a batch at a time from the
            host: 2 MB for 256 images at D = 2,048.

    Returns:
        The classifiers, and the features of the training images' center views.

    Raises:
        MocoError: features are not finite, or all the same.
    """
    center = _center(extractor, train)
    remedy = COLLAPSED if extractor.name == PRETRAINED else NOT_TRAINED
    require_different(center, f"linear: {extractor.name}", remedy)
    probes: list[LinearProbes] = []
    for rates in np.array_split(settings.learning_rates, min(len(devices), len(settings.learning_rates))):
        share = settings.model_copy(update={"learning_rates": rates.tolist()})
        probes.append(LinearProbes(center.shape[1], len(train.images.classes), share, devices[len(probes)]))
    sources = [placed(center, one.device) for one in probes] if settings.views == "center" else []
    progress = Progress("linear", settings.epochs)
    for epoch in range(settings.epochs):
        decay = 0.1 ** sum(epoch >= share * settings.epochs for share in (0.6, 0.8))
        order = permute(np.arange(len(train.labels)), len(train.labels), key_of(settings.seed, epoch))
        for features, labels in _epoch(extractor, train, settings, sources, order, epoch):
            for one, batch in zip(probes, features, strict=False):
                one.step(batch, labels, decay)
        progress.update(
            epoch + 1,
            f"{extractor.name}: epoch {epoch + 1}/{settings.epochs}, {len(settings.learning_rates)} learning rates at once",
        )
    return probes, center


def _epoch(
    extractor: Extractor, train: Labelled, settings: Linear, sources: list[Tensor], order: NDArray[np.int64], epoch: int
) -> Iterator[tuple[Iterable[Tensor], Tensor]]:
    """Give each batch's features, for each of the probes, and its labels."""
    labels = torch.from_numpy(train.labels[order].astype(np.int64)).split(settings.batch_size)
    if settings.views == "center":
        for rows, classes in zip(torch.from_numpy(order).split(settings.batch_size), labels, strict=True):
            # row by row of a batch: a shuffled copy of all features costs more than the training
            yield (source[rows.to(source.device, non_blocking=True)] for source in sources), classes
    else:
        chosen = train.indices[order]
        found = extractor.augmented(train.images, chosen, (settings.seed, epoch), settings.batch_size)
        yield from zip(map(repeat, found), labels, strict=True)


def _ranked(probes: Probes, features: Features, at_most: int = 5) -> NDArray[np.int64]:
    return np.concatenate([one.ranked(features, at_most) for one in probes], axis=1)


def validation_accuracies(extractor: Extractor, probes: Probes, val: Labelled) -> list[float]:
    """Measure top-1 accuracy on the validation split for each learning rate; NaN: it diverged."""
    ranked = _ranked(probes, _center(extractor, val), at_most=1)
    accuracies = (ranked[:, :, 0] == val.labels[:, None]).mean(axis=0)
    return [float(accuracy) for accuracy in np.where(_finite(probes), accuracies, np.nan)]


def best_of(val_top1: list[float], extractor: Extractor, settings: Linear) -> int:
    """Choose a learning rate by accuracy on validation: its number, the first of equals.

    Raises:
        MocoError: every classifier diverged.
    """
    if np.isnan(val_top1).all():
        raise MocoError(
            f"linear: {extractor.name}: the classifiers of all learning rates diverged, and no figure can be made of them;"
            f" lower linear.learning_rates (now {settings.learning_rates})"
        )
    return int(np.nanargmax(val_top1))


def _finite(probes: Probes) -> NDArray[np.bool_]:
    return np.concatenate([one.finite for one in probes])


def _center(extractor: Extractor, images: Labelled) -> Features:
    features = extractor.center(images.images, images.indices)
    remedy = DIVERGED if extractor.name == PRETRAINED else NOT_TRAINED
    require_finite(features, f"linear: {extractor.name}", remedy)
    return features


def evaluate(
    extractor: Extractor, train: Labelled, val: Labelled, test: Labelled, settings: Linear, devices: Devices = ON_CPU
) -> Evaluation:
    """Evaluate one kind of features: train, choose on validation, score the test split once.

    Args:
        extractor: makes the features.
        train: images that the classifiers learn from and that vote in kNN.
        val: images that choose the rate.
        test: images that are scored.
        settings: of the classifiers and of kNN.
        devices: share the learning rates, and kNN's queries.

    Raises:
        MocoError: features are not finite or all the same, or every classifier diverged.
    """
    probes, bank = train_probes(extractor, train, settings, devices)
    val_top1 = validation_accuracies(extractor, probes, val)
    best = best_of(val_top1, extractor, settings)
    features = _center(extractor, test)
    ranked = _ranked(probes, features)[:, best]
    neighbors = knn_predict(
        features, bank, train.labels, len(train.images.classes), settings.knn_k, settings.knn_temperature, devices
    )
    return Evaluation(
        val_top1=val_top1,
        learning_rate=settings.learning_rates[best],
        linear_top1=float((ranked[:, 0] == test.labels).mean()),
        linear_top5=float((ranked == test.labels[:, None]).any(axis=1).mean()),
        knn_top1=float((neighbors == test.labels).mean()),
        predicted=ranked[:, 0],
    )
