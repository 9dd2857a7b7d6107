"""New images come in and deleted ones go, in a project under git and DVC."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_material import SMALL_PRETRAIN, copy_project, rows_of, write_images, write_params

from moco.images.index import open_split
from moco.sources.manifest import read_left_out
from pipelines.cache import Cache
from pipelines.holders import Deleted, delete, holders


def pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(random.integers(0, 255, (20, 20, 3), np.uint8)).save(folder / f"{seed}-{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose first version, of 360 images, is in git, the cache and a remote beside it."""
    base = tmp_path_factory.mktemp("made")
    folder = base / "project"
    folder.mkdir()
    copy_project(folder)
    write_images(folder / "data/inbox")
    split = {"fetch.source": "folder", "fetch.val_fraction": 0.15, "fetch.test_fraction": 0.15}
    write_params(folder, {**split, "shard.samples_per_shard": 40, **SMALL_PRETRAIN})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PWD", str(folder))
        run("git", "init", "-q")
        run("dvc", "remote", "add", "-q", "-d", "store", "../store")
        run("dvc", "repro", "-q", "shard")
        run("dvc", "push", "-q", "fetch", "shard")
        run("git", "add", "-A")
        run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
        run("git", "tag", "first")
    return base


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of it, with its remote."""
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("PWD", str(tmp_path / "project"))
    return tmp_path / "project"


def run(*command: str, code: int = 0) -> str:
    env = {**os.environ, "MOCO_TRACKING": "off"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def stage(name: str, *words: str, code: int = 0) -> str:
    return run(sys.executable, "-m", f"pipelines.{name}", *words, code=code)


def stage_command(*words: str) -> str:
    return run("moco", *words)


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data/shards").glob("*.tar")}


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def keys(folder: Path) -> set[str]:
    return {
        found.key(i)
        for name in ("train", "val", "test")
        for found in [open_split(folder, name)]
        for i in range(len(found))
    }


def test_a_nights_images_are_added_and_pushed_and_nothing_else_is_written(project, tmp_path):
    run("dvc", "repro", "-q", "shard")  # sees the files of the copied folder
    before, size = tars(project), stored(project / ".dvc/cache")
    pictures(tmp_path / "night/class1", 50, seed=1)
    (tmp_path / "night/class1/again.png").write_bytes((project / "data/inbox/class0/0.png").read_bytes())
    said = stage("ingest", str(tmp_path / "night"))
    assert "50 new images, 1 left out as exact duplicates; 410 in the set" in said
    assert {name: data for name, data in tars(project).items() if name in before} == before
    new = sum(len(data) for name, data in tars(project).items() if name not in before)
    assert stored(project / ".dvc/cache") - size < new + 50_000  # and the index, listings and dvc.lock's folders
    assert stored(tmp_path / "store") > stored(project / ".dvc/cache") * 0.9
    assert run("dvc", "status", "-q", "shard") == ""
    diff = json.loads(run("dvc", "diff", "--json", "--targets", "data/shards", "data/raw"))
    assert [name["path"] for name in diff["deleted"]] == []
    assert all("tar" not in name["path"] for name in diff["modified"] if name["path"] != "data/shards/")

    for file in (tmp_path / "night/class1").iterdir():  # the folder is emptied, and the pipeline runs
        file.unlink()
    assert "nothing new" in run("dvc", "repro", "shard")
    assert len(keys(project / "data/shards")) == 410
    assert "0 new images" in stage("ingest", str(project / "data/inbox"))


def test_a_fresh_clone_goes_on_with_what_came_in_before(project, tmp_path, monkeypatch):
    pictures(tmp_path / "night/class1", 20, seed=1)
    stage("ingest", str(tmp_path / "night"))
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "two")
    there = tars(project)
    run("git", "clone", "-q", str(project), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("PWD", str(tmp_path / "clone"))
    run("dvc", "pull", "-q", "fetch", "shard")
    assert tars(tmp_path / "clone") == there
    for file in (tmp_path / "clone/data/inbox").rglob("*.png"):
        file.unlink()
    (tmp_path / "clone/data/inbox").rename(tmp_path / "clone/data/elsewhere")
    assert "data/inbox is not here; the images of data/raw stay" in run("dvc", "repro", "shard")
    pictures(tmp_path / "later/class2", 5, seed=2)
    stage("ingest", str(tmp_path / "later"))
    assert len(keys(tmp_path / "clone/data/shards")) == 385
    assert there.items() <= tars(tmp_path / "clone").items()


def test_a_folder_that_is_missing_comes_from_the_cache_and_is_added_to(project, tmp_path):
    pictures(tmp_path / "night/class1", 20, seed=1)
    stage("ingest", str(tmp_path / "night"))
    there = tars(project)
    pictures(project / "data/inbox/class0", 4, seed=3)
    for folder in ("raw", "shards"):
        for file in (project / "data" / folder).iterdir():
            file.unlink()
        (project / "data" / folder).rmdir()
    run("dvc", "repro", "shard")
    assert there.items() <= tars(project).items()
    assert len(keys(project / "data/shards")) == 384


def test_a_deleted_image_leaves_its_shard_alone_and_does_not_come_back(project, tmp_path):
    pictures(tmp_path / "night/class1", 30, seed=1)
    stage("ingest", str(tmp_path / "night"))
    train, before = open_split(project / "data/shards", "train"), tars(project)
    key = train.key(len(train) - 1)
    shard = train.shards[int(train.entries["shard"][-1])]
    for file in (tmp_path / "night/class1").iterdir():
        file.unlink()
    said = stage("forget", key, "class0/0.png")
    assert "2 images are out of data/raw" in said
    after = tars(project)
    assert shard not in after
    gone = set(before) - set(after)
    assert len(gone) == 2
    assert {name: data for name, data in before.items() if name not in gone}.items() <= after.items()
    assert key not in keys(project / "data/shards")
    assert len(keys(project / "data/shards")) == 388
    assert "still in 2 tars of first (1 of no version)" in said  # the second came later, and was in no commit
    assert "0 new images" in stage("ingest", str(project / "data/inbox"))
    run("dvc", "repro", "-q", "shard")
    assert len(keys(project / "data/shards")) == 388


def test_purge_deletes_what_no_version_names_and_what_runs_left_on_the_disk(project, tmp_path):
    pictures(tmp_path / "night/class1", 30, seed=1)
    stage("ingest", str(tmp_path / "night"))  # cached and pushed, and in no commit
    train = open_split(project / "data/shards", "train")
    key = train.key(len(train) - 1)
    tar = project / "data/shards" / train.shards[int(train.entries["shard"][-1])]
    data, digest = tar.read_bytes(), hashlib.md5(tar.read_bytes(), usedforsecurity=False).hexdigest()
    objects = [base / "files/md5" / digest[:2] / digest[2:] for base in (project / ".dvc/cache", tmp_path / "store")]
    assert all(path.exists() for path in objects)
    left = [
        project / place
        for place in (
            "runs/shards-0123456789abcdef/shards/train-000001.tar",
            "runs/tars/elsewhere/train-000001.tar",
            "runs/worktrees/one/data/shards/train-000001.tar",
            ".dvc/tmp/exps/two/data/shards/train-000001.tar",
        )
    ]
    other = project / "runs/shards-0123456789abcdef/shards/train-000002.tar"
    for path in (*left, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with tarfile.open(other, "w"):
        pass
    said = stage("forget", key)
    assert "still in 1 tars of no version, in the cache and, where it was pushed, in the remote" in said
    assert f"still in {left[0].relative_to(project)} and 3 more" in said.replace(f"{project}/", "")
    assert f"the files that they came from stay: {tmp_path}/night/class1/1-" in said
    objects[0].unlink()  # as after `moco prune`: only the remote has it
    said = stage_command("forget", key, "--purge")
    assert "still in" not in said
    assert not [path for path in (*objects, *left) if path.exists()]
    assert other.exists()


def test_purge_deletes_arrays_of_versions(project):
    images = np.random.default_rng(0).integers(1, 256, (3, 4, 4), np.uint8)
    np.save(project / "images.npy", images)
    cache = Cache()
    assert cache.remote
    digest = hashlib.md5((project / "images.npy").read_bytes(), usedforsecurity=False).hexdigest()
    place = project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(project / "images.npy", place)
    other = Deleted({"0" * 16}, {"0" * 64})
    assert holders(other).objects == []
    mine = Deleted({"0" * 16}, {hashlib.sha256(images[1].tobytes()).hexdigest()})
    found = holders(mine)
    assert (found.objects, found.unnamed) == ([digest], 1)
    delete(found)
    assert not place.exists()


def test_a_near_duplicate_of_a_later_split_leaves_the_set_and_stays_out(project):
    split_of = {row.path: row.split for row in rows_of(project / "data/raw")}
    place = ("train", "val", "test").index
    for path in split_of:  # larger copies: other content, so another split for some
        with Image.open(project / "data/inbox" / path) as image:
            image.resize((64, 64)).save(project / "data/inbox" / path.split("/")[0] / f"copy-of-{Path(path).name}.png")
        if len(list((project / "data/inbox/class0").glob("copy-of-*"))) > 40:
            break
    run("dvc", "repro", "-q", "shard")
    before = {row.path: row.split for row in rows_of(project / "data/raw")}
    said = stage_command("duplicates", "--threshold", "0.97", "--leave-out")
    left = [line for line in read_left_out(project / "data/raw") if line.why == "near-duplicate"]
    assert f"{len(left)} images are out of data/raw: each has a twin in a later split" in said
    assert len(left) >= 5
    assert all(place(before[line.path]) < place(before[line.twin]) for line in left)
    after = {row.path for row in rows_of(project / "data/raw")}
    assert after == set(before) - {line.path for line in left}
    assert "no image has a twin in a later split" in stage_command("duplicates", "--threshold", "0.97", "--leave-out")
    run("dvc", "repro", "-q", "shard")
    assert {row.path for row in rows_of(project / "data/raw")} == after


def test_what_is_unknown_is_refused_and_nothing_changes(project, tmp_path):
    before = tars(project)
    said = stage("forget", "0123456789abcdef", code=1)
    assert said.startswith("error: '0123456789abcdef': no image in data/raw has this key")
    (tmp_path / "list.txt").write_text("\n")
    assert "list.txt: lists nothing" in stage("forget", str(tmp_path / "list.txt"), code=1)
    assert "no such folder" in stage("ingest", "nowhere", code=1)
    assert tars(project) == before


@pytest.mark.slow
def test_a_set_of_taken_in_images_alone_stays_while_the_source_is_empty(project, tmp_path):
    shutil.rmtree(project / "data/raw")
    shutil.rmtree(project / "data/shards")
    Path("dvc.lock").unlink()
    shutil.rmtree("data/inbox")
    (project / "data/inbox").mkdir()
    (project / "data/inbox/.gitignore").write_text("*\n")
    pictures(tmp_path / "evening/cats", 80, 1)
    stage_command("ingest", str(tmp_path / "evening"))
    before = Path("dvc.lock").read_bytes()
    assert "80 images" in run("dvc", "repro", "shard")
    assert "data/inbox holds no files; the images that were taken in stay" in stage("fetch")
    assert Path("dvc.lock").read_bytes() == before
    said = stage("fetch", "--set", "fetch.split_seed=5", code=1)  # what was split otherwise is not passed over
    assert "the folder holds no files" in said
    pictures(project / "data/inbox/cats", 5, 2)
    assert "85 images" in stage("fetch")
