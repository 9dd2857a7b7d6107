"""A part of a split."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from moco.images.index import open_split
from moco.images.subset import subset


@pytest.fixture(scope="module")
def images(small_project: Path):
    return open_split(small_project / "data/shards", "train")


def test_a_share_is_drawn_by_seed_and_smaller_ones_are_part_of_larger_ones(images):
    tenth, half = (subset(images, "all", share, seed=1) for share in (0.1, 0.5))
    assert (len(tenth), len(half)) == (round(0.1 * len(images)), round(0.5 * len(images)))
    assert set(tenth.chosen) < set(half.chosen)
    assert set(tenth.chosen) != set(subset(images, "all", 0.1, seed=2).chosen)
    assert tenth.chosen[:5].tolist() == [3, 10, 15, 18, 33]  # the same in every version
    assert len(subset(images, "all", 1e-9, seed=1)) == 1


def test_the_images_of_a_part_are_those_of_the_whole(images):
    part = pickle.loads(pickle.dumps(subset(images, "all", 0.3, seed=1)))  # as a loader's worker has it
    for i, line in enumerate(part.chosen):
        assert part.read(i) == images.read(int(line))
        assert part.key(i) == images.key(int(line))
        assert part.labels[i] == images.labels[line]


def test_labelled_and_unlabelled_images_are_told_apart(images, monkeypatch):
    labels = np.where(np.arange(len(images)) % 3 == 0, -1, images.labels).astype(np.int32)
    mixed = open_split(images.folder, "train")
    mixed.__dict__["labels"] = labels
    assert subset(mixed, "unlabelled", 1.0, 0).chosen.tolist() == np.flatnonzero(labels < 0).tolist()
    assert subset(mixed, "labelled", 1.0, 0).chosen.tolist() == np.flatnonzero(labels >= 0).tolist()
    assert set(labels[subset(mixed, "all", 0.9, 0).chosen] < 0) == {False, True}
    assert len(subset(images, "unlabelled", 1.0, 0)) == 0
    assert subset(images, "all", 1.0, 0) is images
