"""Stage fetch: data/raw appears whole or not at all, with its metrics."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working folder with params.yaml and 30 images in two classes below data/inbox."""
    shutil.copy(PARAMS, tmp_path)
    for i in range(30):
        file = tmp_path / "data/inbox" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(project, *settings):
    command = [sys.executable, "-m", "pipelines.fetch", "--set", "fetch.source=folder"]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


def content(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_it_writes_the_manifest_the_metrics_and_a_summary(project):
    shutil.copy(project / "data/inbox/a/0.png", project / "data/inbox/a/copy.png")
    done = run(project)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((project / "outputs/fetch/metrics.json").read_text())
    assert (metrics["images"], metrics["classes"], metrics["duplicates"]) == (30, 2, 1)
    assert sum(metrics[split]["labelled"] for split in ("train", "val", "test")) == 30
    assert "30 images" in done.stdout
    assert "1 exact duplicates left out; data/raw/left_out.csv names their twins" in done.stdout
    assert sorted(path.name for path in (project / "data").iterdir()) == ["inbox", "raw"]


def test_it_writes_the_same_bytes_again(project):
    run(project)
    first = content(project / "data/raw")
    run(project)
    assert content(project / "data/raw") == first


def test_paths_in_the_manifest_are_as_the_settings_gave_them(project):
    run(project)
    assert json.loads((project / "data/raw/manifest.json").read_text())["listings"][0]["root"] == "data/inbox"
    assert str(project) not in (project / "data/raw/000000.csv").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["fetch.path=nowhere"],
            "error: fetch.path = 'nowhere': no such folder; name the folder that holds your images\n",
        ),
        (["fetch.source=list"], "error: fetch.path = 'data/inbox': no such file; source list needs a CSV or Parquet"),
        (["fetch.source=floppy"], "error: --set: fetch.source = 'floppy': input should be 'fashion-mnist'"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_what_was_there(project, settings, message):
    run(project)
    before = content(project / "data/raw")
    done = run(project, *settings)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert content(project / "data/raw") == before
    assert not (project / "data/raw.part").exists()


def test_processes_that_cannot_share_a_step_are_refused_before_anything_is_read(project):
    (project / "machine.yaml").write_text("processes: 3\n")
    done = run(project)
    assert done.returncode == 1
    assert done.stderr.startswith("error: pretrain.global_batch = 128 over 3 processes leaves no whole groups")
    assert not (project / "data/raw").exists()


def test_what_does_nothing_is_said(project):
    done = run(project, "pretrain.bn_group_size=128")
    assert "fetch: note: pretrain.shuffle_bn = true does nothing: pretrain.bn_group_size = 128" in done.stdout
