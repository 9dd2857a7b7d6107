"""`moco ingest` and `moco forget` that are killed between any two writes, and begin again."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from killed import content, killed_at, write_tars_here
from PIL import Image
from small_material import rows_of, write_params

from moco import files
from moco.config import load_params
from moco.images.index import open_split
from moco.shards.index import verify
from pipelines.cache import restore
from pipelines.fetch import fetch
from pipelines.forget import forget
from pipelines.ingest import ingest
from pipelines.shard import shard

FOLDERS = ("data/raw", "data/shards", "outputs")


def pictures(folder: Path, first: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.fromarray(np.full((6, 5, 3), i, np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A working folder without DVC: 24 images of fetch.path, and four of a folder that is gone."""
    write_tars_here(monkeypatch)
    split = {"fetch.source": "folder", "fetch.labels": "none", "fetch.val_fraction": 0.1, "fetch.test_fraction": 0.1}
    write_params(
        tmp_path, {**split, "shard.samples_per_shard": 8, "pretrain.global_batch": 8, "pretrain.bn_group_size": 8}
    )
    pictures(tmp_path / "data/inbox", 0, 24)
    pictures(tmp_path / "first", 30, 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    found = load_params()
    fetch(found)
    shard(found)
    ingest(found, ["first"])
    shutil.rmtree("first")
    pictures(tmp_path / "night", 40, 5)
    return found


def state():
    """Give the images of the manifest and of the shards; both are whole."""
    assert [line for line in verify("data/shards") if "not in the index" not in line] == []
    splits = [open_split("data/shards", name) for name in ("train", "val", "test")]
    keys = {split.key(i) for split in splits for i in range(len(split))}
    return {row.sha256 for row in rows_of(Path("data/raw"))}, keys


@pytest.mark.parametrize("exchanged", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["ingest", "forget"])
def test_a_kill_between_any_two_writes(command, exchanged, params, monkeypatch):
    if not exchanged:  # a file system that does not exchange two names in one step
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    rows = rows_of(Path("data/raw"))

    def work():
        if command == "ingest":
            ingest(params, ["night"])
        else:
            forget(params, [rows[0].sha256[:16], rows[-1].path])

    before = state()
    for folder in (*FOLDERS, "runs"):
        shutil.copytree(folder, f"kept/{folder}")
    work()
    after, whole = state(), {folder: content(Path(folder)) for folder in FOLDERS}
    seen = set()
    for number in itertools.count():
        for folder in (*FOLDERS, "runs"):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(f"kept/{folder}", folder)
        if not killed_at(number, work):
            break
        if not exchanged:
            restore(Path("data/raw"))
            restore(Path("data/shards"))
        now = state()
        assert now[0] in (before[0], after[0])
        assert now[1] in (before[1], after[1])
        seen.add((now[0] == after[0], now[1] == after[1]))
        work()
        assert {folder: content(Path(folder)) for folder in FOLDERS} == whole, number
        assert sorted(path.name for path in Path("data").iterdir()) == ["inbox", "raw", "shards"], number
    assert seen == {(False, False), (True, False), (True, True)}


def test_begin_again_takes_what_the_source_has_and_nothing_that_was_forgotten(params):
    forget(params, ["3.png"])
    fetch(params, begin_again=True)
    assert {row.path for row in rows_of(Path("data/raw"))} == {f"{i}.png" for i in range(24) if i != 3}
    assert len(list(Path("data/raw").glob("0*.csv"))) == 1
    shard(params)
    assert len(state()[1]) == 23
