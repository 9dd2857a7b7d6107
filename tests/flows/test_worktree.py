import os
import shutil
from pathlib import Path

import pytest
from small_pipeline import PROJECT, Pipeline

from flows import worktree
from moco.config import load_params
from moco.errors import MocoError

CHANGES = {"pretrain.epochs": 3, "pretrain.views.hue": 0.25}


def test_the_changes_are_in_the_worktree_and_not_in_the_workspace(alone: Pipeline) -> None:
    before = (alone.folder / "params.yaml").read_text()
    folder = worktree.make(alone.folder, "trial", CHANGES)
    params = load_params(folder / "params.yaml")
    assert (params.pretrain.epochs, params.pretrain.views.hue) == (3, 0.25)
    assert "# folder: your images" in (folder / "params.yaml").read_text()  # comments stay
    assert (alone.folder / "params.yaml").read_text() == before
    assert alone.git("status", "--porcelain") == ""


def test_uncommitted_changes_come_along_and_stay_uncommitted(alone: Pipeline) -> None:
    alone.change("pretrain", desc="edited")
    (alone.folder / "prefect.toml").unlink()
    status = alone.git("status", "--porcelain")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    assert (folder / "dvc.yaml").read_text() == (alone.folder / "dvc.yaml").read_text()
    assert not (folder / "prefect.toml").exists()
    assert alone.git("status", "--porcelain") == status


def test_the_compiled_part_comes_along_and_git_does_not_see_it(alone: Pipeline) -> None:
    (alone.folder / "moco/images").mkdir(parents=True)
    (alone.folder / "moco/images/_fused_views.so").write_bytes(b"built")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    assert (folder / "moco/images/_fused_views.so").read_bytes() == b"built"
    assert "_fused_views" not in alone.git("-C", str(folder), "status", "--porcelain")


def test_a_file_that_was_written_again_with_the_same_content_is_no_change(alone: Pipeline) -> None:
    alone.git("status")
    path = alone.folder / "params.yaml"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 60))
    assert worktree.make(alone.folder, "trial", CHANGES).exists()


def test_nothing_is_left_of_a_worktree_that_could_not_be_made(alone: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktree, "CARRIED", ("data",))  # a folder cannot be copied as a file
    with pytest.raises(OSError):
        worktree.make(alone.folder, "trial", CHANGES)
    assert len(alone.git("worktree", "list").splitlines()) == 1
    assert not (alone.folder / worktree.FOLDER / "trial").exists()


def test_what_is_done_in_the_workspace_is_not_done_again(alone: Pipeline) -> None:
    alone.dvc("repro", "--quiet")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    said = Pipeline(folder, alone.env).dvc("repro")
    assert "Stage 'fetch' is cached" in said
    assert "Running stage 'pretrain'" in said


def test_untracked_images_are_found_in_the_worktree(alone: Pipeline) -> None:
    folder = worktree.make(alone.folder, "trial", CHANGES)
    assert (folder / "data/inbox/one.png").read_text() == "an image"


def test_images_that_dvc_does_not_watch_are_linked_too(alone: Pipeline) -> None:
    alone.change("fetch", deps=["params.yaml"])  # as the project's own, which looks at them itself
    alone.commit()
    folder = worktree.make(alone.folder, "trial", {"pretrain.epochs": 1})
    assert (folder / "data/inbox/one.png").read_text() == "an image"


def test_a_folder_of_images_that_only_the_change_names_is_found_too(alone: Pipeline) -> None:
    other = alone.folder / "photographs/cats"
    other.mkdir(parents=True)
    (other / "cat.png").write_text("a cat")
    folder = worktree.make(alone.folder, "trial", {"fetch.path": "photographs"})
    assert (folder / "photographs/cats/cat.png").read_text() == "a cat"


def test_a_list_brings_the_images_beside_it(alone: Pipeline) -> None:
    (alone.folder / "mine").mkdir()
    (alone.folder / "mine/list.csv").write_text("path\na.png\n")
    (alone.folder / "mine/a.png").write_text("a")
    folder = worktree.make(alone.folder, "trial", {"fetch.path": "mine/list.csv"})
    assert (folder / "mine/a.png").read_text() == "a"


def test_a_list_beside_outputs_brings_the_images_and_not_the_outputs(alone: Pipeline) -> None:
    alone.dvc("repro", "--quiet")
    (alone.folder / "data/list.csv").write_text("path\ncats/a.png\n")
    (alone.folder / "data/cats").mkdir()
    (alone.folder / "data/cats/a.png").write_text("a")
    folder = worktree.make(alone.folder, "trial", {"fetch.path": "data/list.csv"})
    assert (folder / "data/cats/a.png").read_text() == "a"
    assert not (folder / "data/raw").exists()


def test_outputs_are_never_taken_from_the_workspace(alone: Pipeline) -> None:
    alone.dvc("repro", "--quiet")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    assert not (folder / "encoder").exists()
    assert not (folder / "data/raw").exists()


def test_an_experiment_saved_in_the_worktree_is_listed_in_the_workspace(alone: Pipeline) -> None:
    alone.dvc("repro", "--quiet")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    there = Pipeline(folder, alone.env)
    there.dvc("repro", "--quiet")
    there.dvc("exp", "save", "--name", "trial")
    worktree.remove(alone.folder, folder)
    assert "trial" in alone.dvc("exp", "show", "--csv")
    alone.dvc("exp", "apply", "trial")
    assert load_params(alone.folder / "params.yaml").pretrain.epochs == 3


def test_experiments_of_other_commits_are_forgotten_by_name(alone: Pipeline) -> None:
    here = alone.git("rev-parse", "HEAD").strip()
    places = {"here": f"{here[:2]}/{here[2:]}", "there": f"{'a' * 2}/{'b' * 38}"}
    refs = [f"refs/exps/{place}/{name}" for place in places.values() for name in ("trial", "trial-2")]
    for ref in refs:
        alone.git("update-ref", ref, here)
    worktree.forget_experiments(alone.folder, "trial")
    left = alone.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    assert left == sorted(ref for ref in refs if ref != f"refs/exps/{places['there']}/trial")


def test_a_folder_left_by_an_earlier_attempt_is_replaced(alone: Pipeline) -> None:
    first = worktree.make(alone.folder, "trial", CHANGES)
    (first / "debris").write_text("")
    assert not (worktree.make(alone.folder, "trial", CHANGES) / "debris").exists()


def test_removing_leaves_no_trace_and_may_be_repeated(alone: Pipeline) -> None:
    folder = worktree.make(alone.folder, "trial", CHANGES)
    worktree.remove(alone.folder, folder)
    worktree.remove(alone.folder, folder)
    assert not folder.exists()
    assert len(alone.git("worktree", "list").splitlines()) == 1


def test_values_that_do_not_fit_together_are_refused(alone: Pipeline) -> None:
    with pytest.raises(MocoError, match=r"global_batch .* must be a multiple of bn_group_size"):
        worktree.make(alone.folder, "trial", {"pretrain.global_batch": 100})
    assert not (alone.folder / worktree.FOLDER / "trial").exists()


def test_a_folder_without_a_commit_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    with pytest.raises(MocoError, match="needs a git repository with a commit"):
        worktree.make(tmp_path, "trial", CHANGES)


def test_git_needs_a_name_only_where_it_knows_none(
    alone: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert worktree.identity(alone.folder)["GIT_COMMITTER_NAME"] == "pretrain-and-evaluate"
    alone.git("config", "user.name", "A Person")
    alone.git("config", "user.email", "person@localhost")
    assert worktree.identity(alone.folder) == {}


def test_images_in_folders_below_count_in_the_worktree_too(alone: Pipeline) -> None:
    inbox = alone.folder / "data/inbox/cats"
    inbox.mkdir()
    (inbox / "cat.png").write_text("a cat")
    alone.change("fetch", cmd="mkdir -p data/raw && cp -r ${fetch.path}/* data/raw/")
    alone.dvc("repro", "--quiet")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    assert "Stage 'fetch' is cached" in Pipeline(folder, alone.env).dvc("repro", "fetch")
    (inbox / "cat.png").write_text("another cat")
    folder = worktree.make(alone.folder, "trial", CHANGES)
    assert "Running stage 'fetch'" in Pipeline(folder, alone.env).dvc("repro", "fetch")


def test_a_project_in_a_folder_of_a_repository_works_in_that_folder(alone: Pipeline, tmp_path: Path) -> None:
    top = tmp_path / "team"
    shutil.copytree(alone.folder, top / "project", ignore=shutil.ignore_patterns(".git", "dvc.lock"))
    inside = Pipeline(top / "project", alone.env)
    Pipeline(top, alone.env).git("init", "--quiet")
    inside.commit()
    folder = worktree.make(inside.folder, "trial", CHANGES)
    assert folder == inside.folder / worktree.FOLDER / "trial" / "project"
    assert load_params(folder / "params.yaml").pretrain.epochs == 3
    worktree.remove(inside.folder, folder)
    assert list((inside.folder / worktree.FOLDER).iterdir()) == []
    assert "trial" not in inside.git("worktree", "list")


def test_a_section_that_the_file_leaves_to_its_defaults_may_be_changed_in_part(tmp_path: Path) -> None:
    params = (PROJECT / "params.yaml").read_text()
    begin, end = params.index("check:"), params.index("pretrain:")
    (tmp_path / "params.yaml").write_text(params[:begin] + params[end:])
    worktree.change_values(tmp_path / "params.yaml", {"check.min_images": 3})
    assert load_params(tmp_path / "params.yaml").check.min_images == 3
