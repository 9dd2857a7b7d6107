"""kNN on the validation split while training: the one reading that tells learning from cheating."""

from dataclasses import dataclass

import numpy as np
import torch

from moco.cluster.process_group import Processes
from moco.encoders import EncoderSpec, FrozenEncoder, ResNet
from moco.evaluation.features import Features, extract, spread
from moco.evaluation.knn import knn_predict
from moco.images.index import ShardSet
from moco.images.plan import Integers

BANK = 10_000  # labelled training images at most; enough to rank epochs, and seconds even for ImageNet
QUERIES = 10_000
K, TEMPERATURE = 20, 0.07


@dataclass(frozen=True)
class KnnMonitor:
    """Reads a backbone's kNN accuracy on labelled validation images.

    Attributes:
        train: images whose features vote.
        val: images that are classified.
        seed: chooses which, where there are more than enough.
    """

    train: ShardSet
    val: ShardSet
    seed: int

    @property
    def possible(self) -> bool:
        """Whether both sides have labels."""
        return bool((np.asarray(self.train.labels) >= 0).any() and (np.asarray(self.val.labels) >= 0).any())

    def top1(self, backbone: ResNet, spec: EncoderSpec, processes: Processes, num_workers: int) -> float:
        """Accuracy, a fraction of 1, the same on every process; each encodes a share of the images."""
        copy = ResNet(spec.architecture, spec.stem).to(processes.device)
        copy.load_state_dict(backbone.state_dict())
        encoder = FrozenEncoder(copy, spec)
        bank, bank_labels = self._features(encoder, self.train, BANK, processes, num_workers)
        queries, labels = self._features(encoder, self.val, QUERIES, processes, num_workers)
        predicted = knn_predict(queries, bank, bank_labels, len(self.train.classes), K, TEMPERATURE)
        return float((predicted == labels).mean())

    def _features(
        self, encoder: FrozenEncoder, images: ShardSet, at_most: int, processes: Processes, num_workers: int
    ) -> tuple[Features, np.ndarray]:
        labels = np.asarray(images.labels)
        labelled = np.flatnonzero(labels >= 0)
        chosen: Integers = labelled[spread(len(labelled), at_most, self.seed)]
        share = -(-len(chosen) // processes.world_size)
        padded = np.resize(
            chosen, share * processes.world_size
        )  # equal shares; the repeats are cut off again
        mine = padded[processes.rank * share : (processes.rank + 1) * share]
        features = torch.from_numpy(extract(encoder, images, mine, num_workers))
        together = processes.gather(features.to(processes.device)).cpu().numpy()
        return together[: len(chosen)], labels[chosen]
