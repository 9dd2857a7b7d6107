"""A flow that ends with a version: one name in git and Prefect, and nothing else of a person's."""

import logging
from pathlib import Path

import pytest
from small_material import ROOT
from small_pipeline import Pipeline
from test_flow_runs import artifacts, latest_run

from flows import naming
from moco.config import load_params
from moco.errors import MocoError
from pipelines.versions import git

START = {"pretrain.init": {"kind": "champion"}}


def test_a_run_ends_with_a_version_that_is_brought_back(served: Pipeline) -> None:
    (served.folder / "draft.txt").write_text("mine\n")
    said = served.flow("--name-version").stderr
    (name,) = served.git("tag").splitlines()
    assert f"git checkout {name} && dvc checkout" in said
    committed = served.git("show", "--name-only", "--format=", f"{name}^{{commit}}").splitlines()
    assert {path.rpartition("/")[2] for path in committed} == {"dvc.lock", ".gitignore"}
    assert served.git("status", "--porcelain") == "?? draft.txt"
    assert latest_run(served)["tags"] == [name]
    assert name in artifacts(served)["version"]
    said = served.flow("--name-version").stderr
    assert f"no new version: {name} has the same" in said
    assert served.git("tag") == name
    params = (served.folder / "params.yaml").read_text()
    (served.folder / "params.yaml").write_text(params.replace("map_images:", "map_images: 99 #"))
    said = served.flow("--name-version").stderr  # the run is as good as any
    assert "Running stage 'report'" in said
    assert "no version: params.yaml: not committed" in said
    assert served.git("tag") == name
    served.git("checkout", "--quiet", "--force", name)
    served.dvc("checkout")
    assert served.dvc("status") == "Data and pipelines are up to date.\n"
    assert "Running stage 'linear'" in served.dvc("repro", "--force", "--single-item", "linear")
    assert served.git("status", "--porcelain") == "?? draft.txt"  # made again, the same bytes


def test_a_run_without_it_leaves_git_alone(alone: Pipeline) -> None:
    head = alone.git("rev-parse", "HEAD")
    alone.flow()
    assert alone.git("rev-parse", "HEAD") == head
    assert alone.git("tag") == ""


@pytest.mark.slow
def test_what_a_run_with_a_version_begins_with_is_committed_first(served: Pipeline) -> None:
    served.flow("--name-version", "--set", "pretrain.init={kind: published}")
    (name,) = served.git("tag").splitlines()
    titles = served.git("log", "--format=%s", name).splitlines()
    assert titles[1:] == ['params.yaml: pretrain.init = {"kind": "published"}', "state"]
    assert served.git("status", "--porcelain") == ""
    assert "kind: published" in served.git("show", f"{name}:params.yaml")
    assert "kind: published" in served.git("show", f"{name}:dvc.lock")
    assert served.git("for-each-ref", "refs/exps") == ""
    said = served.flow("--name-version", "--set", "pretrain.init={kind: published}").stderr
    assert f"no new version: {name}" in said


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_env: dict[str, str]) -> Path:
    """A repository with params.yaml alone."""
    for key, value in plain_env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(naming, "get_run_logger", lambda: logging.getLogger("test"))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "state")
    return tmp_path


def test_other_changes_make_an_experiment_and_no_version(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = START | {"pretrain.epochs": 3}
    assert naming.keep_start(project, changes) == changes
    assert "no version: pretrain.epochs changed, which makes the run an experiment" in caplog.text
    assert naming.keep_start(project, {}) == {}
    assert git(project, "log", "--format=%s") == "state"


def test_the_commit_holds_the_first_weights_alone_and_comments_stay(project: Path) -> None:
    (project / "draft.txt").write_text("mine\n")
    git(project, "add", "draft.txt")
    before = (project / "params.yaml").read_text().splitlines()
    assert naming.keep_start(project, START) == {}
    assert git(project, "show", "--name-only", "--format=", "HEAD") == "params.yaml"
    assert git(project, "status", "--porcelain") == "A  draft.txt"
    assert load_params(project / "params.yaml").pretrain.init.kind == "champion"
    after = (project / "params.yaml").read_text().splitlines()
    assert sum("#" in line for line in after) >= sum("#" in line for line in before) - 1


def test_params_that_are_edited_or_cannot_be_committed_stay_as_they_are(project: Path) -> None:
    path = project / "params.yaml"
    before = path.read_bytes()
    (project / ".git/HEAD.lock").touch()
    with pytest.raises(MocoError, match=r"HEAD\.lock"):
        naming.keep_start(project, START)
    assert path.read_bytes() == before
    (project / ".git/HEAD.lock").unlink()
    path.write_bytes(before + b"# mine\n")
    with pytest.raises(MocoError, match=r"params\.yaml: not committed, and what this run begins with"):
        naming.keep_start(project, START)
    assert path.read_bytes() == before + b"# mine\n"
