"""A stand-in for shards: colored patches in three classes."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass
class Patches:
    """Stands for a shard set."""

    name: str
    labels: np.ndarray
    classes: list[str]
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, i: int) -> str:
        return f"{self.name}-{i:04d}"

    def read(self, i: int) -> bytes:
        rng = np.random.default_rng([self.seed, i])
        shape = (20 + i % 7, 24, 3)
        image = rng.integers(0, 60, shape, dtype=np.uint8)
        image[..., max(int(self.labels[i]), 0)] += 150
        return cv2.imencode(".png", image)[1].tobytes()


def patches(name: str, count: int, seed: int, labelled: bool = True) -> Patches:
    labels = np.arange(count, dtype=np.int32) % 3 if labelled else np.full(count, -1, np.int32)
    return Patches(name, labels, ["blue", "green | $x$", "<b>red_*"] if labelled else [], seed)
