"""A worktree for a run with changed parameters, so that nobody's params.yaml is edited.

The folder is a git worktree: the commit checked out in the workspace, with the uncommitted changes
to tracked files there, its dvc.lock and its DVC cache. What is done already is therefore not done
again, and the result joins the workspace's experiments (`dvc exp show`).
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml

from moco.config import load_params
from moco.errors import MocoError

FOLDER = Path("runs/worktrees")
CARRIED = ("dvc.lock", "machine.yaml", ".dvc/config.local")  # untracked, yet part of how this workspace runs
BUILT = "moco/images/_fused_views*.so"
"""The compiled part of the views, which git leaves out."""

ONE_AT_A_TIME = threading.RLock()
"""Held while git's records of worktrees, stashes and experiments change, which runs side by side
share."""


def make(workspace: Path, name: str, changes: Mapping[str, Any]) -> Path:
    """Make the worktree `runs/worktrees/NAME` and write the changes into its params.yaml.

    A folder of that name left by an earlier attempt is replaced; finished stages come back from the
    cache.

    Args:
        workspace: the project's folder, a git repository or a folder of one.
        name: the worktree's name; also the experiment's.
        changes: `section.key` -> value.

    Returns:
        The project's folder in it.

    Raises:
        MocoError: the workspace has no commit to start from, or the changed parameters are not
            allowed.
    """
    load_params(workspace / "params.yaml", [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    top = workspace / FOLDER / name
    with ONE_AT_A_TIME:
        remove(workspace, top)
        try:
            top.parent.mkdir(parents=True, exist_ok=True)
            _git(workspace, "worktree", "add", "--quiet", "--detach", str(top), "HEAD")
            folder = top / _git(workspace, "rev-parse", "--show-prefix")
            if not folder.is_dir():
                raise MocoError(f"{workspace}: the last commit does not hold this folder; commit the project first")
            _fill(workspace, folder, changes)
        except BaseException:
            remove(workspace, top)
            raise
    return folder


def _fill(workspace: Path, folder: Path, changes: Mapping[str, Any]) -> None:
    # Else a file that was written again with the same content makes `stash create` fail silently.
    _git(workspace, "update-index", "-q", "--refresh", check=False)
    if edited := _git(workspace, "stash", "create"):  # a commit of the uncommitted changes; they stay where they are
        _git(folder, "read-tree", "-u", "--reset", edited)
    for path in CARRIED:
        if (workspace / path).exists():
            shutil.copyfile(workspace / path, folder / path)
    for built in workspace.glob(BUILT):
        target = folder / built.relative_to(workspace)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(built)
    change_values(folder / "params.yaml", changes)
    with Repo(str(workspace)) as repo:
        cache = repo.cache.local_cache_dir
    with Repo(str(folder)) as repo, repo.config.edit("local") as config:
        config.setdefault("cache", {})["dir"] = cache
    _link_inputs(workspace, folder)


def change_values(path: Path, changes: Mapping[str, Any]) -> None:
    """Write values (`section.key`, or deeper) into a YAML file, whose comments stay."""
    with modify_yaml(str(path)) as values:
        for key, value in changes.items():
            *sections, last = key.split(".")
            target = values
            for section in sections:
                target = target.setdefault(section, {})  # a section that has defaults may be missing
            target[last] = value


def remove(workspace: Path, folder: Path) -> None:
    """Remove the worktree of a project's folder, and git's record of it, if there is one."""
    trees = workspace / FOLDER
    top = trees / folder.relative_to(trees).parts[0]
    with ONE_AT_A_TIME:
        if top.exists():
            _git(workspace, "worktree", "remove", "--force", "--force", str(top), check=False)
            shutil.rmtree(top, ignore_errors=True)
        _git(workspace, "worktree", "prune")


def commit_of(workspace: Path) -> tuple[str, bool]:
    """Name the checked-out commit, and tell whether tracked files were changed since."""
    return _git(workspace, "rev-parse", "HEAD"), bool(
        # A lock on the index would be in the way of a run that is just making its worktree.
        _git(workspace, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    )


def experiments(workspace: Path) -> set[str]:
    """Names of all DVC experiments, whichever commit they began with."""
    refs = _git(workspace, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    return {ref.rsplit("/", 1)[-1] for ref in refs}


def forget_experiments(folder: Path, name: str) -> None:
    """Remove a name's experiments that began with other commits, for DVC would ask which is meant.

    Args:
        folder: the workspace, or a worktree whose experiment stays.
        name: of the experiments.
    """
    head = _git(folder, "rev-parse", "HEAD")
    for ref in _git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines():
        *_, start, rest, last = ref.split("/")  # refs/exps/AB/CDEF…/NAME
        if last == name and start + rest != head:
            _git(folder, "update-ref", "-d", ref)


def identity(folder: Path) -> dict[str, str]:
    """Name the author of `dvc exp save`'s commit in variables, if git does not know one."""
    if all(_git(folder, "config", f"user.{key}", check=False) for key in ("name", "email")):
        return {}
    author = {"NAME": "pretrain-and-evaluate", "EMAIL": "pretrain-and-evaluate@localhost"}
    names = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in author.items()}
    return {name: os.environ.get(name, value) for name, value in names.items()}


def _link_inputs(workspace: Path, folder: Path) -> None:
    """Link what the stages read and git does not hold, such as the images in data/inbox."""
    with Repo(str(folder)) as repo:
        outs = [Path(out.fs_path) for out in repo.index.outs]
        paths = [Path(dep.fs_path) for dep in repo.index.deps if dep.protocol == "local"]
        # DVC does not watch the images themselves.
        paths.append(Path(os.path.normpath(folder / load_params(folder / "params.yaml").fetch.path)))
        for path in paths:
            if not path.is_relative_to(folder) or any(_overlap(path, out) for out in outs):
                continue
            source = workspace / path.relative_to(folder)
            # A list of images names them by paths near it.
            if source.is_file() and path.suffix in (".csv", ".parquet") and path.parent != folder:
                source, path = source.parent, path.parent
            _lay_over(repo, outs, source, path)


def _lay_over(repo: Repo, outs: list[Path], source: Path, target: Path, whole: bool = True) -> None:
    # An output is made in the worktree; a link there would have the stages write into the
    # workspace.
    if not source.exists() or target in outs or repo.dvcignore.is_ignored(repo.fs, str(target)):
        return
    if target.is_symlink() or target.is_file():
        return
    # DVC follows a link to a dependency, but none to a folder below: what is in there would not
    # count.
    below = source.is_dir() and not whole
    if below or target.is_dir() or any(out.is_relative_to(target) for out in outs):
        target.mkdir(parents=True, exist_ok=True)
        for child in sorted(source.iterdir()):
            _lay_over(repo, outs, child, target / child.name, whole=False)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _git(folder: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if check and done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        need = "a run with changed parameters needs a git repository with a commit"
        raise MocoError(f"git {arguments[0]} in {folder}: {reason}; {need}")
    return done.stdout.strip()
