"""A version is a commit of dvc.lock alone and a tag that tells what it holds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.grow import Arrival, grow
from moco.sources.listing import Item
from pipelines import cli
from pipelines.compare_versions import difference
from pipelines.versions import edited, find, free_name, git, name_version, versions

ENV = os.environ | {
    f"GIT_{role}_{what}": "person@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
STAGES = {
    "fetch": {"cmd": "true", "deps": ["images", "code.py"], "params": ["fetch"], "outs": ["data/raw"]},
    "shard": {"cmd": "true", "deps": ["data/raw"], "outs": ["data/shards"], "metrics": ["outputs/shard/metrics.json"]},
    "linear": {"cmd": "true", "deps": ["data/shards"], "outs": ["model"], "metrics": ["outputs/linear/metrics.json"]},
}


def make(folder: Path, digests: list[str], top1: float, rate: float) -> None:
    """Have every stage made, from images of these hashes."""
    items = [Item(f"{digest}.png", None, "cat", "train", digest, 9) for digest in digests]
    shutil.rmtree(folder / "data/raw", ignore_errors=True)
    (folder / "data/raw").mkdir(parents=True)
    settings = Fetch(source="folder", path="x", labels="none", val_fraction=0, test_fraction=0, split_seed=0)
    grow(Arrival(items, settings, "folder", "x"), folder / "data/raw", folder / "data/raw")
    (folder / "params.yaml").write_text(f"fetch: {{rate: {rate}}}\n")
    for path, text in {
        "data/shards/train-000000.tar": " ".join(digests),
        "model": str(top1),
        "outputs/shard/metrics.json": json.dumps({"train": {"images": len(digests)}, "test": {"images": 1000}}),
        "outputs/linear/metrics.json": json.dumps({"moco": {"linear_top1": top1, "knn_top1": 0.5}}),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).unlink(missing_ok=True)
        (folder / path).write_text(text)
    dvc(folder, "commit", "--force", "--quiet")


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, env=ENV
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder: Path, *paths: str) -> None:
    git(folder, "add", "--", *paths, env=ENV)
    git(folder, "commit", "--quiet", "--message", "by hand", env=ENV)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project in a folder of a repository, with everything but dvc.lock committed."""
    git(tmp_path, "init", "--quiet")
    folder = tmp_path / "project"
    (folder / "images").mkdir(parents=True)
    dvc_folder = folder / ".dvc"
    dvc_folder.mkdir()
    (dvc_folder / "config").touch()
    (dvc_folder / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / "images/.gitignore").write_text("*\n!.gitignore\n")
    (folder / "images/1.png").touch()
    for name in ("code.py", "notes.txt", "draft.txt"):
        (folder / name).write_text("first\n")
    (folder / ".gitignore").write_text("/data\n/outputs\n/model\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (folder / "params.yaml").write_text("fetch: {rate: 1}\n")
    commit(tmp_path, ".")
    return folder


def test_the_commit_holds_dvc_lock_alone_and_a_persons_edits_stay_as_they_are(project: Path) -> None:
    make(project, ["a"], 0.5, rate=1)
    (project / "params.yaml").write_text("fetch: {rate: 1}\n")
    (project / "notes.txt").write_text("staged\n")
    git(project, "add", "notes.txt")
    (project / "draft.txt").write_text("not staged\n")
    (project / "new.txt").write_text("new\n")
    git(project, "checkout", "--", "params.yaml")
    before = edited(project)
    version, new = name_version(project, ENV, before, flow_run="brave-owl", mlflow_run="12")
    assert new
    assert git(project, "show", "--name-only", "--format=%s", "HEAD").splitlines() == [
        version.title,
        "",
        "project/dvc.lock",
    ]
    assert git(project, "rev-parse", f"{version.name}^{{commit}}") == git(project, "rev-parse", "HEAD")
    assert git(project, "status", "--porcelain").splitlines() == [
        " M project/draft.txt",
        "M  project/notes.txt",
        "?? project/new.txt",
    ]
    (known,) = versions(project)
    assert known == version
    assert (known.flow_run, known.mlflow_run, known.figures["linear.moco.linear_top1"]) == ("brave-owl", "12", 0.5)
    assert known.images == {"train": 1, "test": 1000}


@pytest.mark.parametrize(
    ("now", "committed"),
    [
        ("/data\n/outputs\n/model\n", True),
        ("/data\n/outputs\n/model\n*.mine\n", False),
        ("/data\n*.mine\n/outputs\n/model\n", False),
        ("/data\n/model\n", False),
        ("/data\n/outputs\n", False),  # as it was
    ],
)
def test_a_gitignore_with_lines_of_dvc_alone_belongs_to_the_commit(project: Path, now: str, committed: bool) -> None:
    """Whatever a person wrote there, before the run or during it, stays uncommitted."""
    ignored = project / ".gitignore"
    ignored.write_text("/data\n/outputs\n")
    commit(project, ".gitignore")
    (project / "drafts").mkdir()
    (project / "drafts/.gitignore").write_text("*.tmp\n")
    before = edited(project)
    make(project, ["a"], 0.5, rate=1)
    assert ignored.read_text() == "/data\n/outputs\n/model\n"  # by DVC
    git(project, "checkout", "--", "params.yaml")
    ignored.write_text(now)
    (project / "outputs/.gitignore").write_text("/mine\n")
    name_version(project, ENV, before)
    shown = git(project, "show", "--name-only", "--format=", "HEAD").splitlines()
    assert shown == ["project/.gitignore"] * committed + ["project/dvc.lock"]
    assert ignored.read_text() == now


def test_a_new_gitignore_of_dvc_belongs_to_the_commit(project: Path) -> None:
    git(project, "rm", "--quiet", ".gitignore")
    git(project, "commit", "--quiet", "-m", "none", env=ENV)
    (project.parent / ".git/info/exclude").write_text("/project/data\n/project/outputs\n")
    make(project, ["a"], 0.5, rate=1)
    git(project, "checkout", "--", "params.yaml")
    name_version(project, ENV, ())
    assert git(project, "show", "HEAD:./.gitignore") == "/model"
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.parametrize("path", ["params.yaml", "code.py", "dvc.yaml"])
def test_what_no_commit_holds_gets_no_version(project: Path, path: str) -> None:
    make(project, ["a"], 0.5, rate=1)
    git(project, "checkout", "--", "params.yaml")
    with (project / path).open("a") as file:
        file.write("# edited\n")
    with pytest.raises(MocoError, match=f"^{path}: not committed"):
        name_version(project, ENV, ())
    assert versions(project) == []
    assert git(project, "log", "--format=%s") == "by hand"


def test_the_same_lock_has_one_version_and_a_lock_that_is_committed_is_tagged(project: Path) -> None:
    make(project, ["a"], 0.5, rate=1)
    commit(project, "dvc.lock", "params.yaml")
    head = git(project, "rev-parse", "HEAD")
    version, new = name_version(project, ENV, ())
    assert new
    assert git(project, "rev-parse", "HEAD") == head
    again, new = name_version(project, ENV, ())
    assert (again, new) == (version, False)


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "refs/tags"])
def test_a_repository_that_takes_no_version_says_so_and_stages_nothing(project: Path, lock: str) -> None:
    git(project, "rm", "--quiet", "--cached", ".gitignore")  # new to git, as dvc.lock is
    git(project, "commit", "--quiet", "-m", "none", env=ENV)
    make(project, ["a"], 0.5, rate=1)
    git(project, "checkout", "--", "params.yaml")
    (project / "notes.txt").write_text("staged\n")
    git(project, "add", "notes.txt")
    before = git(project, "status", "--porcelain").splitlines()
    path = project.parent / ".git" / lock
    if path.exists():
        shutil.rmtree(path)
    path.touch()
    with pytest.raises(MocoError, match=lock.replace(".", r"\.")):
        name_version(project, ENV, ())
    path.unlink()
    assert versions(project) == []
    left = git(project, "status", "--porcelain").splitlines()
    assert left == [line for line in before if lock != "refs/tags" or "dvc.lock" not in line]
    name_version(project, ENV, ())
    assert len(versions(project)) == 1


def test_names_of_one_day_are_counted() -> None:
    first = free_name(set())
    assert free_name({first}) == f"{first}-2"
    assert free_name({first, f"{first}-2"}) == f"{first}-3"


def test_two_versions_are_listed_compared_and_brought_back(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    cli.main(["versions"])
    assert "no version yet" in capsys.readouterr().out
    for digests, top1, rate in ((["a", "b"], 0.5, 1), (["b", "c", "d"], 0.9, 2)):
        make(project, digests, top1, rate)
        commit(project, "params.yaml") if rate == 2 else git(project, "checkout", "--", "params.yaml")
        name_version(project, ENV, ())
    new, old = versions(project)
    cli.main(["versions"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["version", new.name, old.name]
    assert lines[1].split()[-2:] == ["0.9000", "0.5000"]
    git(project, "commit", "--allow-empty", "--quiet", "-m", "later", env=ENV)
    cli.main(["versions", old.name.removeprefix("version-"), new.name])
    said = capsys.readouterr().out
    assert "1002 -> 1003 images: 2 added, 1 removed, 0 with another label or split" in said
    assert "settings  fetch.rate: 1 -> 2" in said
    assert "code      the same" in said
    assert "linear.moco.linear_top1" in said and "beyond chance" in said
    assert "knn_top1" not in said
    cli.main(["versions", old.name])  # with the newest
    assert capsys.readouterr().out == said
    git(project, "checkout", "--quiet", old.name)
    dvc(project, "checkout")
    assert (project / "data/shards/train-000000.tar").read_text() == "a b"
    assert "up to date" in dvc(project, "status")


def test_a_manifest_that_is_not_here_is_said(project: Path) -> None:
    for digests in (["a"], ["b"]):
        make(project, digests, 0.5, rate=1)
        git(project, "checkout", "--", "params.yaml")
        name_version(project, ENV, ())
    new, old = versions(project)
    subprocess.run(["rm", "-r", project / ".dvc/cache", project / "data/raw"], check=True)
    assert "`dvc fetch --all-tags data/raw` brings the manifests" in difference(project, old, new)[0]


@pytest.mark.parametrize("names", [["2001-01-01"], ["version-2001-01-01", "x"]])
def test_a_version_that_is_not_there_is_one_line(
    project: Path, names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    git(project, "tag", "version-of-somebody")  # of another kind
    with pytest.raises(SystemExit):
        cli.main(["versions", *names])
    assert f"{names[0] if len(names) == 1 else 'x'}: no such version" in capsys.readouterr().err
    with pytest.raises(MocoError, match="none was made"):
        find(project, "version-of-somebody")
