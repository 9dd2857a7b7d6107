"""Training reads its tars where `dvc push` put them, and makes the same encoder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_store import KEYS, keep_on_s3, s3_server

from moco.config import load_params
from moco.errors import MocoError
from moco.images.index import open_split
from moco.images.tar_source import Source
from pipelines.pretrain import pretrain
from pipelines.remote_tars import write_tars

FEW = ["pretrain.epochs=1", "pretrain.knn_every_epochs=0"]


def dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def kept(project: Path) -> Path:
    """The small project with shards of its own that DVC knows."""
    shards = (project / "data/shards").resolve()
    (project / "data/shards").unlink()
    shutil.copytree(shards, project / "data/shards")
    dvc("init", "--no-scm", "--quiet")
    dvc("add", "--quiet", "data/shards")
    return project


def leave_the_index() -> None:
    """Have no tar here any more, nor in DVC's cache."""
    for tar in Path("data/shards").glob("*.tar"):
        tar.unlink()
    shutil.rmtree(".dvc/cache")


def encoder() -> bytes:
    return Path("outputs/pretrain/encoder/encoder.safetensors").read_bytes()


@pytest.mark.parametrize("order", ["null", "{lanes: 4, window: 40}"])
def test_the_encoder_is_the_one_of_local_tars(kept: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(overrides=[*FEW, f"pretrain.stream={order}"])
    monkeypatch.setenv("MOCO_RUNS", str(kept / "runs/here"))
    pretrain(params)
    expected = encoder()
    dvc("remote", "add", "--default", "store", str(kept / "store"))
    dvc("push", "--quiet")
    leave_the_index()
    shutil.rmtree("outputs")
    Path("machine.yaml").write_text("processes: 1\nshards_from: dvc\nshards_cache_gb: 0.01\n")
    monkeypatch.setenv("MOCO_RUNS", str(kept / "runs/there"))
    pretrain(params)
    assert encoder() == expected


def test_objects_on_s3_are_read_with_the_keys_of_the_environment(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as url:
        keep_on_s3(dvc, url)
        dvc("push", "--quiet")
        images = open_split(kept / "data/shards", "train")
        contents = {shard: (kept / "data/shards" / shard).read_bytes() for shard in images.shards}
        leave_the_index()
        write_tars(kept / "tars.json")
        source = Source(images, f"list:{kept / 'tars.json'}")
        assert source.name(images.shards[0]).startswith("s3://store/moco/files/md5/")
        for shard, content in contents.items():
            assert source.part(shard, 5, 900) == content[5:900]
            if shutil.which("curl"):
                assert source.open(shard, 512, 1000).read(488) == content[512:1000]
    assert not any(value in (kept / "tars.json").read_text() for value in KEYS.values() if value != "us-east-1")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda: None, "machine.yaml: shards_from = dvc: .*no remote specified"),
        (lambda: os.unlink("data/shards.dvc"), "machine.yaml: shards_from = dvc: Unable to find DVC file with output"),  # noqa: PTH108
    ],
)
def test_what_dvc_does_not_know_is_one_line(kept: Path, spoil: Callable[[], None], told: str) -> None:
    if "no remote" not in told:
        dvc("remote", "add", "--default", "store", str(kept / "store"))
    spoil()
    with pytest.raises(MocoError, match=told) as error:
        write_tars(kept / "tars.json")
    assert "\n" not in str(error.value)
    assert not (kept / "tars.json").exists()
