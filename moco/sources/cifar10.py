"""CIFAR-10: 60,000 color images of 32 x 32 pixels in ten classes."""

from functools import partial
from pathlib import Path

import numpy as np

from moco.config import Fetch
from moco.files import require_free
from moco.sources.download import download
from moco.sources.source import ArrayPart, Arrays

BYTES = 4 * 10**8  # the archive and what is unpacked from it


def find(settings: Fetch) -> Arrays:
    """Read the data set; `settings.path` is the folder for its files."""
    from torchvision.datasets import CIFAR10

    path = Path(settings.path)
    if not (path / CIFAR10.base_folder).is_dir():
        require_free(path, BYTES, "downloading cifar10")
    train, test = (
        download("cifar10", path, partial(CIFAR10, path, train=train, download=True)) for train in (True, False)
    )
    labels = np.asarray(train.targets), np.asarray(test.targets)
    parts: list[ArrayPart] = [(train.data, labels[0], "train"), (test.data, labels[1], "test")]
    return Arrays(lambda: parts, list(train.classes))
