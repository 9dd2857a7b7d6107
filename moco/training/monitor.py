"""Readings while training: kNN, which tells learning from cheating, feature shape, BN leak."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from moco.config import Pretrain
from moco.encoders.frozen import EncoderSpec, FrozenEncoder
from moco.errors import MocoError
from moco.features.collapse import effective_rank, feature_spread
from moco.features.extract import Features, extract, sample_indices
from moco.features.knn import knn_predict
from moco.images.index import ShardSet
from moco.permutation import Integers
from moco.processes import Processes
from moco.training.leak import groups_of
from moco.verdicts import Validation

BANK = 10_000  # labelled training images at most; enough to rank epochs, and seconds even for ImageNet
QUERIES = 10_000
SHAPE = 2048
"""Validation images, at most, whose features are measured for collapse: the rank takes their square
times D."""
K, TEMPERATURE = 20, 0.07


@dataclass(frozen=True)
class Reading:
    """What a backbone's features on validation images are worth.

    Attributes:
        knn_top1: accuracy of weighted kNN, a fraction of 1; None without labels.
        spread: see `moco.features.collapse.feature_spread`; NaN, as the rank, where features are
            not finite.
        effective_rank: see `moco.features.collapse.effective_rank`.
    """

    knn_top1: float | None
    spread: float
    effective_rank: float


def validation_of(images: int, labelled: int, group_size: int) -> Validation:
    """Count the images behind the readings of a validation split.

    Args:
        images: of the split.
        labelled: those with a label; 0 where no training image has one to vote with.
        group_size: images that share batch-norm statistics.
    """
    return Validation(
        min(QUERIES, labelled), group_size * groups_of(images, group_size), min(SHAPE, labelled or images)
    )


@dataclass(frozen=True)
class Monitor:
    """Reads a backbone on validation images.

    Attributes:
        train: images whose features vote.
        val: images that are classified, and whose features are measured.
        seed: chooses which, where there are more than enough.
    """

    train: ShardSet
    val: ShardSet
    seed: int

    @property
    def possible(self) -> bool:
        """Whether there are validation images."""
        return len(self.val) > 0

    @property
    def labelled(self) -> bool:
        """Whether both sides have labels, which kNN needs."""
        return bool((np.asarray(self.train.labels) >= 0).any() and (np.asarray(self.val.labels) >= 0).any())

    def validation(self, group_size: int) -> Validation:
        """Count the images behind its readings, and behind the leak of norms over such groups."""
        labelled = int((np.asarray(self.val.labels) >= 0).sum()) if self.labelled else 0
        return validation_of(len(self.val), labelled, group_size)

    def due(self, epoch: int, settings: Pretrain) -> bool:
        """Tell whether a reading follows this epoch: every `knn_every_epochs`, and the last."""
        every = settings.knn_every_epochs
        return self.possible and bool(every) and (epoch % every == 0 or epoch == settings.epochs)

    def require_tars(self, every: int) -> None:
        """Name a tar that readings draw images from and that is not there.

        Args:
            every: epochs between two readings; 0: none.

        Raises:
            MocoError: one is missing.
        """
        if not every or not self.possible:
            return
        for images, name in ((self.train, "training"), (self.val, "validation")):
            if images is self.train and not self.labelled:
                continue
            missing = next((tar for tar in images.shards if not (images.folder / tar).exists()), None)
            if missing:
                raise MocoError(
                    f"pretrain.knn_every_epochs = {every} needs the {name} tars in {images.folder} too, and {missing}"
                    " is not there; set it to 0, or put the tars there"
                )

    def read(self, backbone: nn.Module, spec: EncoderSpec, processes: Processes, num_workers: int) -> Reading:
        """Take a reading, the same on every process; each encodes a share of the images."""
        copy = spec.build().to(processes.device)
        copy.load_state_dict(backbone.state_dict())
        encoder = FrozenEncoder(copy, spec)
        chosen = self._choose(self.val, QUERIES)
        queries = self._features(encoder, self.val, chosen, processes, num_workers)
        if not np.isfinite(queries).all():  # every process has the same ones, and the same answer
            return Reading(None, np.nan, np.nan)
        shape = queries[sample_indices(len(queries), SHAPE, self.seed)]
        top1 = self._knn(encoder, queries, chosen, processes, num_workers) if self.labelled else None
        device = processes.device
        return Reading(top1, feature_spread(shape, device), effective_rank(shape, device))

    def _knn(
        self, encoder: FrozenEncoder, queries: Features, chosen: Integers, processes: Processes, num_workers: int
    ) -> float:
        voters = self._choose(self.train, BANK)
        bank = self._features(encoder, self.train, voters, processes, num_workers)
        labels = np.asarray(self.train.labels)[voters]
        predicted = knn_predict(queries, bank, labels, len(self.train.classes), K, TEMPERATURE, [processes.device])
        return float((predicted == np.asarray(self.val.labels)[chosen]).mean())

    def _choose(self, images: ShardSet, at_most: int) -> Integers:
        labels = np.asarray(images.labels)
        candidates = np.flatnonzero(labels >= 0) if self.labelled else np.arange(len(labels))
        chosen: Integers = candidates[sample_indices(len(candidates), at_most, self.seed)]
        return chosen

    def _features(
        self, encoder: FrozenEncoder, images: ShardSet, chosen: Integers, processes: Processes, num_workers: int
    ) -> Features:
        share = -(-len(chosen) // processes.world_size)
        padded = np.resize(chosen, share * processes.world_size)  # equal shares; the repeats are cut off again
        mine = padded[processes.rank * share : (processes.rank + 1) * share]
        features = torch.from_numpy(extract(encoder, images, mine, num_workers))
        together: Features = processes.gather(features.to(processes.device)).cpu().numpy()[: len(chosen)]
        return together
