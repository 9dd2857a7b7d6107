"""Shards by a Slurm job array: the same bytes for any number of jobs, and after losses."""

import contextlib
import hashlib
import io
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sandbox import wait_until
from small_material import ROOT, SMALL_PRETRAIN, write_params

from moco.config import load_params
from pipelines.fetch import fetch
from pipelines.shard import shard

SHARD = [sys.executable, "-m", "pipelines.shard"]
ENVIRONMENT = {**os.environ, "MOCO_TRACKING": "off", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SLURM = {"kind": "slurm", "tasks": 4, "minutes": 10, "partition": "ci", "options": {"exclusive": True}}
SHARDS = 61


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a shard set."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a manifest, and in `reference` the shards that one host makes."""
    folder = tmp_path_factory.mktemp("prepared")
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC).save(data, "JPEG")
    for number in range(240):
        image = folder / "data/inbox" / f"class{number % 3}" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(data.getvalue() + b"%06d" % number)  # behind its end
    (folder / "data/inbox/class0/bad.jpg").write_bytes(b"no image")
    settings = {"shard.samples_per_shard": 4, "shard.max_side": 200, "fetch.source": "folder"}
    write_params(folder, SMALL_PRETRAIN | settings)
    with contextlib.chdir(folder):
        params = load_params(folder / "params.yaml")
        fetch(params)
        shard(params)
    (folder / "data/shards").rename(folder / "reference")
    return folder


@pytest.fixture
def project(prepared: Path, tmp_path: Path):
    """Make the project's folder with an engine, without shards."""

    def make(**engine: object) -> Path:
        folder = tmp_path / f"project{len(list(tmp_path.glob('project*')))}"
        (folder / "data").mkdir(parents=True)
        for name in ("params.yaml", "data/raw", "data/inbox"):
            (folder / name).symlink_to(prepared / name)
        (folder / "machine.yaml").write_text(yaml.safe_dump({"engine": SLURM | engine}))
        return folder

    return make


def notes(folder: Path) -> int:
    """Shards that are finished."""
    return len(list(folder.glob("runs/shards-*/notes/*.json")))


def test_a_node_that_loses_its_power_changes_no_byte(slurm, prepared, project, tmp_path):
    folder = project()
    driver = slurm.start(SHARD, cwd=folder, env=ENVIRONMENT, log=tmp_path / "log")
    wait_until(lambda: notes(folder) >= 4, 60, "some shards are there")
    assert notes(folder) < SHARDS
    slurm.power_off("n2")
    assert driver.wait(180) == 0, (tmp_path / "log").read_text()
    jobs = slurm.run(["scontrol", "show", "job"], check=True).stdout
    assert jobs.count("Restarts=1") == 1  # what ran on n2 was queued again
    assert content(folder / "data/shards") == content(prepared / "reference")
    assert "job array 1, 4 jobs" in (tmp_path / "log").read_text()
    assert [path.name for path in (folder / "runs").glob("*.pieces")] == []


@pytest.mark.parametrize("tasks", [1, 2])
def test_fewer_jobs_and_more_processes_change_no_byte(slurm, prepared, project, tmp_path, tasks):
    folder = project(tasks=tasks, cpus_per_task=3 - tasks)
    done = slurm.run(SHARD, cwd=folder, env=ENVIRONMENT, timeout=180)
    assert done.returncode == 0, done.stderr
    assert content(folder / "data/shards") == content(prepared / "reference")


def test_a_driver_that_was_killed_comes_back_and_keeps_what_is_finished(slurm, prepared, project, tmp_path):
    folder = project()
    driver = slurm.start(SHARD, cwd=folder, env=ENVIRONMENT, log=tmp_path / "log")
    wait_until(lambda: notes(folder) >= 4, 60, "some shards are there")
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    again = slurm.run(SHARD, cwd=folder, env=ENVIRONMENT, timeout=180)
    assert again.returncode == 0, again.stderr
    assert "shards were finished by an earlier run and are kept" in again.stdout
    assert content(folder / "data/shards") == content(prepared / "reference")
    assert {job.state for job in slurm.jobs() if job.id.startswith("1_")} <= {"CANCELLED", "COMPLETED"}


def test_ctrl_c_cancels_the_array_and_keeps_what_is_finished(slurm, project, tmp_path):
    folder = project()
    driver = slurm.start(SHARD, cwd=folder, env=ENVIRONMENT, log=tmp_path / "log")
    wait_until(lambda: notes(folder) >= 4, 60, "some shards are there")
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert "finished shards are kept, run shard again to continue" in (tmp_path / "log").read_text()
    assert not slurm.run(["squeue", "--noheader"], check=True).stdout
    assert notes(folder) >= 4
    assert not (folder / "data/shards").exists()


def test_what_cannot_be_done_is_one_line(slurm, project):
    refused = slurm.run(SHARD, cwd=project(options={"mem": "900G"}), env=ENVIRONMENT)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "Slurm refuses the job: sbatch: error: " in refused.stderr
    assert "correct the section engine" in refused.stderr
    never = slurm.run(SHARD, cwd=project(setup=["exit 3"], tasks=2), env=ENVIRONMENT)
    assert never.returncode == 1
    assert never.stderr.count("\n") == 1
    assert "the last 2 job arrays finished none; their output is in" in never.stderr
    folder = project()
    (folder / "data/inbox").unlink()
    (folder / "data/inbox/class0").mkdir(parents=True)
    gone = slurm.run(SHARD, cwd=folder, env=ENVIRONMENT)
    assert gone.returncode == 1
    assert gone.stderr.count("\n") == 1
    assert "fetch read it, but it cannot be read now" in gone.stderr
    assert not slurm.run(["squeue", "--noheader"], check=True).stdout
