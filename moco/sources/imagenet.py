"""ImageNet of ILSVRC 2012: 1.28 million photographs in a thousand classes."""

import os
from functools import partial
from pathlib import Path

from moco.config import Fetch
from moco.sources.download import download
from moco.sources.folder import walk_tree
from moco.sources.source import Files, Found


def find(settings: Fetch) -> Files:
    """Find the images in `settings.path`, the folder of the archives or of `train` and `val`."""
    from torchvision.datasets import ImageNet

    path = Path(settings.path)
    # Only the validation folder has public labels, so it is the test set here. Folders unpacked by
    # other means need neither the archives nor torchvision's meta file.
    for split in ("train", "val"):
        if not any(folder.is_dir() for folder in path.glob(f"{split}/*")):
            download("imagenet", path, partial(ImageNet, path, split))

    def walk() -> Found:
        for name in walk_tree(path / "train"):
            yield f"train/{name}", name.split("/")[0], "train"
        for name in walk_tree(path / "val"):
            yield f"val/{name}", name.split("/")[0], "test"

    return Files(str(path), walk, sorted(entry.name for entry in os.scandir(path / "train") if entry.is_dir()))
