"""Stages run by hand never write into a file that DVC has linked to its cache."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from small_material import SMALL_PRETRAIN, copy_project, write_images, write_params

STAGES = {
    "fetch": "fetch.split_seed=1",
    "shard": "shard.samples_per_shard=50",
    "check": "check.max_empty=0.3",
    "pretrain": "pretrain.seed=1",
    "linear": "linear.seed=1",
    "report": "report.seed=1",
}
"""Each with a change that gives it other outputs."""


def run(folder: Path, *command: str) -> None:
    env = {**os.environ, "PWD": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cached(folder: Path) -> dict[str, str]:
    files = (path for path in (folder / ".dvc/cache").rglob("*") if path.is_file())
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_the_cache_stays_as_it_is_whatever_runs_beside_dvc(tmp_path, link):
    copy_project(tmp_path)
    write_images(tmp_path / "data/inbox")
    quick = {"pretrain.epochs": 1, "pretrain.knn_every_epochs": 1, "linear.epochs": 2}
    write_params(tmp_path, {"fetch.source": "folder", **SMALL_PRETRAIN, **quick})
    (tmp_path / "machine.yaml").write_text("processes: 1\n")
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "dvc", "config", "cache.type", link)
    run(tmp_path, "dvc", "repro")
    encoder = tmp_path / "outputs/pretrain/encoder/encoder.safetensors"
    assert encoder.is_symlink() if link == "symlink" else encoder.stat().st_nlink == 2
    before = cached(tmp_path)
    for stage, change in STAGES.items():
        run(tmp_path, "moco", stage, "--set", change)
        assert cached(tmp_path) == before, stage

    run(tmp_path, "dvc", "checkout", "--force", *STAGES)
    run(tmp_path, "dvc", "status", "--quiet", *(stage for stage in STAGES if stage != "fetch"))  # which looks each time
