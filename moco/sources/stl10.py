"""STL-10: color images of 96 x 96 pixels in ten classes, and 100,000 unlabelled ones."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import Fetch
from moco.files import require_free
from moco.sources.download import download
from moco.sources.source import ArrayPart, Arrays

BYTES = 6 * 10**9  # the archive and what is unpacked from it


def find(settings: Fetch) -> Arrays:
    """Read the data set; `settings.path` is the folder for its files."""
    from torchvision.datasets import STL10

    path = Path(settings.path)
    folder = path / STL10.base_folder
    if not folder.is_dir():
        require_free(path, BYTES, "downloading stl10")
    test = download("stl10", path, partial(STL10, path, split="test", download=True))

    def images(name: str) -> NDArray[np.uint8]:  # mapped, for the unlabelled images alone are 2.8 GB; stored by column
        return np.memmap(folder / name, np.uint8, mode="r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)

    def labels(name: str) -> NDArray[Any]:
        return np.fromfile(folder / name, np.uint8) - 1

    parts: list[ArrayPart] = [
        (images("train_X.bin"), labels("train_y.bin"), "train"),
        (images("unlabeled_X.bin"), None, "train"),
        (images("test_X.bin"), labels("test_y.bin"), "test"),
    ]
    return Arrays(lambda: parts, list(test.classes), sorted(folder.glob("*.bin")))
