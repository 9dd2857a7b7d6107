"""The images of a shard set, with what the manifest beside it knows of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from moco.config import SPLITS
from moco.errors import MocoError
from moco.explore.images import Explored, Group
from moco.explore.of_splits import of_splits
from moco.features.extract import sample_indices
from moco.features.neighbors import Features
from moco.images.index import ShardSet, open_split, sample_key
from moco.permutation import Integers
from moco.sources.manifest import MANIFEST, Placed, lines, read_together


def of_shards(folder: Path, raw: Path, encode: Callable[[ShardSet, Integers], Features], most: int) -> Explored:
    """Take the images of all splits of a set, or a seeded sample of them.

    Args:
        folder: of the shards.
        raw: of the manifest; where it is not of these shards, or missing, no file is named.
        encode: gives features of some images of a split, float32 N x D, in order.
        most: images at most.

    Raises:
        MocoError: there are no such shards, or no image in them.
    """
    splits = [open_split(folder, split) for split in SPLITS]
    ends = np.cumsum([len(split) for split in splits])
    chosen = sample_indices(int(ends[-1]), most, 0)
    if not len(chosen):
        raise MocoError(f"{folder}: holds no image; run `dvc repro shard` first")
    rows = [
        chosen[(chosen >= end - len(split)) & (chosen < end)] - (end - len(split))
        for split, end in zip(splits, ends, strict=True)
    ]
    features = [encode(split, mine) for split, mine in zip(splits, rows, strict=True) if len(mine)]
    found = of_splits(str(folder), splits, rows, np.concatenate(features), int(ends[-1]))
    return _with_files(found, raw)


def _with_files(images: Explored, raw: Path) -> Explored:
    """Add each image's file, and the listing in which it came in."""
    if not (raw / MANIFEST).exists():
        return images
    manifest, removed = read_together(raw)
    wanted = set(images.keys)
    names, files, arrivals = dict[str, str](), set[str](), dict[str, str]()
    for placed in lines(raw, manifest, removed):
        if placed.removed or not placed.row.sha256 or (key := sample_key(placed.row.key)) not in wanted:
            continue
        names[key], own = _file(manifest.listings[placed.listing].root, placed)
        arrivals[key] = Path(manifest.listings[placed.listing].file).stem
        files |= {key} if own else set()
    arrival = Group.of([arrivals.get(key, "") for key in images.keys])
    return replace(
        images,
        names=[names.get(key, "") for key in images.keys],
        files=np.array([key in files for key in images.keys]),
        groups=images.groups | {"arrival": arrival},
    )


def _file(root: str | None, placed: Placed) -> tuple[str, bool]:
    """Name where an image is, and tell whether that is a file of its own."""
    row = placed.row
    path, line = str(Path(root or "", row.path)), row.row
    moved = [place for place in placed.places if place.row is None]
    if moved and (line is not None or not Path(path).exists()):
        path, line = str(Path(moved[-1].root, moved[-1].path)), None
    return (path, root is not None) if line is None else (f"{path}, {line}", False)
