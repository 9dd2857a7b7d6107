"""Small real material for all tests: a project folder whose shards the stages made."""

import contextlib
import os
from pathlib import Path

import pytest
from small_material import SMALL_PRETRAIN, write_images, write_params

os.environ.setdefault("MOCO_TRACKING", "off")  # tests of tracking turn it on for themselves
os.environ.setdefault("DO_NOT_TRACK", "1")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only folder with params.yaml, data/raw and data/shards of 360 labelled images."""
    from moco.config import load_params
    from pipelines.fetch import fetch
    from pipelines.shard import shard

    folder = tmp_path_factory.mktemp("project")
    write_images(folder / "data/inbox")
    split = {"fetch.source": "folder", "fetch.val_fraction": 0.15, "fetch.test_fraction": 0.15}
    write_params(folder, split | SMALL_PRETRAIN)
    with contextlib.chdir(folder):
        params = load_params()
        fetch(params)
        shard(params)
    return folder


@pytest.fixture
def project(small_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the small project that a test may write to.

    The shards are shared.
    """
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shards").symlink_to(small_project / "data/shards")
    (tmp_path / "params.yaml").write_bytes((small_project / "params.yaml").read_bytes())
    (tmp_path / "machine.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
