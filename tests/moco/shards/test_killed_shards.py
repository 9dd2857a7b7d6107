"""Sharding that is killed between any two writes leaves the set as it was, or as it will be."""

import itertools
import shutil

import numpy as np
import pytest
from killed import content, killed_at, write_tars_here
from PIL import Image
from small_material import rows_of

from moco.config import SPLITS, Fetch, Shard
from moco.images.index import open_split
from moco.shards import index
from moco.shards.index import verify
from moco.shards.write import write_shards
from moco.sources.forget import forget
from moco.sources.manifest import read_manifest
from moco.sources.open import open_source
from moco.sources.take_in import take_in

LIMITS = {"samples_per_shard": 8, "merge_below": None, "megabytes_per_shard": 256, "max_side": None}
SETTINGS = Shard(**LIMITS, jpeg_quality=92, max_bad_fraction=0.5)


def come(base, name, first, count):
    """Take new images, and a file that is none, from a folder of their own into `base`/raw."""
    for i in range(first, first + count):
        file = base / name / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), i, np.uint8)).save(file)
    (base / name / "bad.png").write_text(f"no image, {name}")
    shares = {"val_fraction": 0.2, "test_fraction": 0, "split_seed": 0}
    settings = Fetch(source="folder", path=str(base / name), labels="none", **shares)
    before = read_manifest(base / "raw") if (base / "raw").exists() else None
    take_in(open_source(settings), settings, base / "raw", before, followed=False)


def shard(base, settings=SETTINGS):
    write_shards(base / "raw", base / "shards", base / "runs", settings, 1)


def images(base):
    """Key and bytes of every image; the set opens."""
    found = {}
    for split in SPLITS:
        there = open_split(base / "shards", split)
        found |= {there.key(i): there.read(i) for i in range(len(there))}
    assert [line for line in verify(base / "shards") if "not in the index" not in line] == []
    return found


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Shards of 24 images whose folder is gone, and which can be made from nothing else."""
    write_tars_here(monkeypatch)
    come(tmp_path, "first", 0, 24)
    shard(tmp_path)
    (tmp_path / "first").rename(tmp_path / "gone")
    return tmp_path


def added(base, monkeypatch):
    come(base, "second", 40, 6)


def added_and_the_index_is_one_again(base, monkeypatch):
    monkeypatch.setattr(index, "MOST_PARTS", 1)
    come(base, "second", 40, 6)


def deleted(base, monkeypatch):
    rows = [row for row in rows_of(base / "raw") if "bad" not in row.path]
    forget(base / "raw", [rows[0].sha256, rows[-1].sha256])


def another_branch(base, monkeypatch):
    """Two changes with one number: the tars are of one, the manifest of the other."""
    shutil.copytree(base / "raw", base / "branch")
    rows = [row for row in rows_of(base / "raw") if row.split == "train" and "bad" not in row.path]
    forget(base / "raw", [rows[0].sha256])
    shard(base)
    shutil.rmtree(base / "raw")
    (base / "branch").rename(base / "raw")
    (base / "gone").rename(base / "first")  # what one branch took out is in no tar of it
    forget(base / "raw", [rows[1].sha256])


@pytest.mark.parametrize("change", [added, added_and_the_index_is_one_again, deleted, another_branch])
def test_a_kill_between_any_two_writes(change, base, monkeypatch):
    change(base, monkeypatch)
    before = images(base)
    shutil.copytree(base / "shards", base / "kept")
    shard(base)
    after, whole = images(base), content(base / "shards")
    assert after != before
    seen = set()
    for number in itertools.count():
        shutil.rmtree(base / "shards")
        shutil.rmtree(base / "runs")
        shutil.copytree(base / "kept", base / "shards")
        if not killed_at(number, lambda: shard(base)):
            break
        now = images(base)
        assert now in (before, after), number
        seen.add(now == after)
        shard(base)
        assert content(base / "shards") == whole, number
        assert not [path for path in base.iterdir() if path.suffix == ".part"]
    assert seen == {False, True}
    assert number > 8
