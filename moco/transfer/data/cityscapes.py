"""Cityscapes' folders, and other data in the same layout."""

from pathlib import Path

import numpy as np

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Problem, set_of_label_maps
from moco.transfer.data.problems import DEFAULT, Checks, Listing, checked

CLASS_OF_ID = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The 19 of the 34 label ids that are trained and scored; the others are ignored."""
IMAGE, LABELS = "_leftImg8bit.png", "_gtFine_labelIds.png"
ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com"


def read_cityscapes(root: Path | str, split: str, *, checks: Checks = DEFAULT) -> AnnotatedSet:
    """Read images and label maps of Cityscapes.

    These are leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and
    gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png.

    Args:
        root: the folder that has leftImg8bit and gtFine.
        split: train or val; the labels of test are not public, and its label maps are empty.
        checks: how bad images are handled; an image without a label map, or the reverse, is bad.

    Returns:
        Images in the order of cities and names; an id is NAME, as "aachen_000000_000019". The PNG
        files hold label ids, which `label_of_pixel` translates.

    Raises:
        MocoError: a folder is missing, or too many images are bad.
    """
    root = Path(root)
    for folder in (root / "leftImg8bit" / split, root / "gtFine" / split):
        if not folder.is_dir():
            raise MocoError(f"{folder}: no such folder; unpack {ARCHIVES} into {root}")
    images = sorted((root / "leftImg8bit" / split).glob(f"*/*{IMAGE}"))
    names = [(path.parent.name, path.name.removesuffix(IMAGE)) for path in images]
    label_of_pixel = np.full(256, 255, np.uint8)
    label_of_pixel[list(CLASS_OF_ID)] = np.arange(len(CLASS_OF_ID))
    listing = Listing()
    alone = [
        Problem(str(path), "a label map without its image", "image")
        for path in sorted((root / "gtFine" / split).glob(f"*/*{LABELS}"))
        if not listing.has(root / "leftImg8bit" / split / path.parent.name / (path.name.removesuffix(LABELS) + IMAGE))
    ]
    found = set_of_label_maps(
        name=f"Cityscapes {split}",
        ids=[name for _, name in names],
        paths=images,
        label_maps=[root / "gtFine" / split / city / f"{name}{LABELS}" for city, name in names],
        semantic_classes=list(CLASS_OF_ID.values()),
        label_of_pixel=label_of_pixel,
    )
    return checked(found, alone, checks)
