"""ImageNet of ILSVRC 2012: 1.28 million photographs in a thousand classes."""

import csv
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.download import download
from moco.sources.source import File, Files
from moco.sources.tree import walk_tree

KAGGLE = Path("ILSVRC/Data/CLS-LOC")
SOLUTION = "LOC_val_solution.csv"


def find(settings: Fetch) -> Files:
    """Find the images in `settings.path`.

    It is the folder of the archives, of `train` and `val`, or of Kaggle's archive, whose validation
    images lie in one folder.
    """
    from torchvision.datasets import ImageNet

    path = Path(settings.path)
    inside = KAGGLE if (path / KAGGLE / "train").is_dir() else Path()
    # Only the validation folder has public labels, so it is the test set here. Folders unpacked by
    # other means need neither the archives nor torchvision's meta file.
    class_of = _class_of(path, path / inside / "val")
    for split in ("train",) if class_of else ("train", "val"):
        if not any(folder.is_dir() for folder in (path / inside).glob(f"{split}/*")):
            download("imagenet", path, partial(ImageNet, path, split))

    def walk() -> Iterator[File]:
        for name in walk_tree(path / inside / "train"):
            yield File((inside / "train" / name).as_posix(), name.split("/")[0], "train")
        for name in walk_tree(path / inside / "val"):
            label = class_of.get(Path(name).stem, "") if class_of else name.split("/")[0]
            yield File((inside / "val" / name).as_posix(), label, "test")

    folders = sorted(entry.name for entry in os.scandir(path / inside / "train") if entry.is_dir())
    return Files(str(path), walk, folders, own=frozenset({"test"}))


def _class_of(path: Path, val: Path) -> dict[str, str]:
    """Read the class of each validation image by its name, where they all lie in one folder."""
    if not val.is_dir() or any(entry.is_dir() for entry in os.scandir(val)) or not any(val.iterdir()):
        return {}
    try:
        with (path / SOLUTION).open(newline="", encoding="utf-8-sig") as file:
            found = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, IndexError, AttributeError, csv.Error) as error:
        raise MocoError(
            f"{val}: the layout of ILSVRC's archives, images without folders of classes; put Kaggle's {SOLUTION} into"
            f" {path} ({type(error).__name__} reading it), or move each image into a folder of its class"
        ) from None
    return found
