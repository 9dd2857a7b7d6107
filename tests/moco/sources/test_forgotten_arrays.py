"""Arrays of images hold no image that was forgotten."""

import hashlib

import numpy as np
import pytest
from small_material import rows_of

from moco.config import Fetch
from moco.sources.forget import forget
from moco.sources.manifest import read_manifest
from moco.sources.source import Arrays
from moco.sources.take_in import take_in

SETTINGS = Fetch(source="fashion-mnist", path="x", labels="folders", val_fraction=0, test_fraction=0, split_seed=0)


def source(images):
    return Arrays(lambda: [(images, None, "train")], [])


@pytest.fixture
def images():
    found = np.random.default_rng(0).integers(1, 256, (20, 6, 6), np.uint8)
    found[12] = found[5]  # a second copy, which no listing names
    return found


def test_the_rows_of_a_forgotten_image_are_zeros_and_it_is_not_stored_again(images, tmp_path):
    raw = tmp_path / "raw"
    take_in(source(images), SETTINGS, raw)
    (tmp_path / "kept.npy").hardlink_to(raw / "000000.npy")
    forget(raw, [hashlib.sha256(images[5].tobytes()).hexdigest()])
    stored = np.load(raw / "000000.npy")
    assert [row for row in range(20) if not stored[row].any()] == [5, 12]
    assert np.array_equal(np.load(tmp_path / "kept.npy"), images), "another name of the old file keeps its content"
    more = np.concatenate([images, images[:3] // 2])
    manifest = take_in(source(more), SETTINGS, raw, read_manifest(raw))
    assert (manifest.images, len(manifest.listings)) == (21, 2)
    assert [row for row in range(23) if not np.load(raw / "000001.npy")[row].any()] == [5, 12]
    assert more[5].any(), "the source is as it was"
    assert {row.sha256 for row in rows_of(raw)} == {
        hashlib.sha256(more[row].tobytes()).hexdigest() for row in range(23) if row not in (5, 12)
    }


def test_a_source_that_brings_nothing_new_leaves_no_array(images, tmp_path):
    raw = tmp_path / "raw"
    take_in(source(images), SETTINGS, raw)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    take_in(source(images), SETTINGS, raw, read_manifest(raw))
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before
