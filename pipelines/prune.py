"""What of this project takes room on disk, what may go by the policy of machine.yaml, and why not.

Nothing that a kept version, a branch, an experiment or a run under way needs is offered.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.cluster.keep import Keep
from moco.errors import MocoError
from moco.files import readable
from moco.locks import locked_by_another
from pipelines.driver import under_way
from pipelines.versions import PREFIX, git, versions

CHECKPOINTS, FEATURES, TARS = "step-*.pt", "features", "tars"
WORKTREES, QUEUE = "runs/worktrees", ".dvc/tmp/exps"
"""Below the project: where the flow and DVC's queue run experiments."""
DAY = 86_400.0
BESIDES = {
    "shards-*": "sharding that did not end",
    "*.hashed": "hashing that did not end",
    "*.pieces": "work on other hosts that did not end",
    "*/*.pieces": "work on other hosts that did not end",
    "slurm": "logs of Slurm's jobs",
    "survey": "numbers of the images, measured again where they are needed",
}
"""What else stages leave in the runs' folder, where it may go when it is old."""


@dataclass(frozen=True)
class Piece:
    """Files that stay or go together.

    Attributes:
        what: they are.
        size: bytes.
        why: they stay, or may go.
        paths: to remove; empty: they stay.
        worktree: whether it is a git worktree.
    """

    what: str
    size: int
    why: str
    paths: tuple[Path, ...] = ()
    worktree: bool = False

    @property
    def goes(self) -> bool:
        """Whether the policy lets it go."""
        return bool(self.paths)


def pieces(folder: Path, runs: Path, keep: Keep) -> list[Piece]:
    """Look at everything; what may go comes first, the largest first."""
    found = [
        *_trainings(runs, keep),
        *_features(runs, keep),
        *_tars(runs, keep),
        *_besides(runs, keep),
        *_worktrees(folder, keep),
        *_cache(folder, keep),
        *_records(folder),
    ]
    return sorted((piece for piece in found if piece.size), key=lambda piece: (not piece.goes, -piece.size))


def remove(folder: Path, piece: Piece) -> None:
    """Remove what a piece names; what another process has removed meanwhile is passed over."""
    for path in piece.paths:
        if piece.worktree:
            git(folder, "worktree", "remove", "--force", "--force", str(path), check=False)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if piece.worktree:
        git(folder, "worktree", "prune")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep DVC's commands waiting while files go.

    Raises:
        MocoError: one of them works now.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo

    if not (folder / ".dvc").is_dir():
        yield
        return
    with Repo(str(folder)) as repo:
        try:
            repo.lock.lock()
        except LockError:
            raise MocoError(f"{folder / '.dvc'}: a command of DVC's works now; wait for it") from None
        try:
            yield
        finally:
            repo.lock.unlock()


def summary(found: list[Piece]) -> str:
    """One line for the end of a run."""
    total, free = (readable(sum(one.size for one in found if one.goes or not only)) for only in (False, True))
    return f"disk: {total} of checkpoints, features, cache and records; `moco prune` would free {free}"


def _trainings(runs: Path, keep: Keep) -> Iterator[Piece]:
    for place in sorted(path for path in runs.glob("*") if path.is_dir()):
        checkpoints = tuple(place.glob(CHECKPOINTS))
        aside = ".old" in place.name
        if not checkpoints:
            continue
        what = f"{place.name}: " + ("a training set aside" if aside else f"{len(checkpoints)} checkpoints")
        size, age = _size(*([place] if aside else checkpoints)), _days(place)
        if locked_by_another(place.with_name(f"{place.name}.lock")):
            yield Piece(what, size, "trains now")
        elif age < keep.days:
            yield Piece(what, size, _young(age, keep))
        else:
            yield Piece(what, size, f"used {age:.0f} days ago", (place,) if aside else checkpoints)


def _features(runs: Path, keep: Keep) -> Iterator[Piece]:
    files = [path for path in (runs / FEATURES).glob("*") if path.suffix != ".user"]
    if any(locked_by_another(path) for path in (runs / FEATURES).glob("*.user")):
        yield Piece(FEATURES, _size(*files), "a stage reads them now")
        return
    old = tuple(path for path in files if _days(path) >= keep.days)
    yield Piece(FEATURES, _size(*old), f"not used for {keep.days:g} days", old)
    yield Piece(FEATURES, _size(*(set(files) - set(old))), f"used within {keep.days:g} days (machine.yaml: keep.days)")


def _tars(runs: Path, keep: Keep) -> Iterator[Piece]:
    for place in sorted((runs / TARS).glob("*")):
        what, size, age = f"{TARS}/{place.name}: tars of a set that is elsewhere", _size(place), _days(place)
        if locked_by_another(place / "lock"):
            yield Piece(what, size, "training reads them now")
        elif age < keep.days:
            yield Piece(what, size, _young(age, keep))
        else:
            yield Piece(what, size, f"fetched {age:.0f} days ago", (place,))


def _besides(runs: Path, keep: Keep) -> Iterator[Piece]:
    for pattern, what in BESIDES.items():
        for place in sorted(path for path in runs.glob(pattern) if path.is_dir()):
            name, size, age = f"{place.relative_to(runs)}: {what}", _size(place), _days(place, deep=True)
            if locked_by_another(place.with_suffix(".lock")):
                yield Piece(name, size, "a stage works there now")
            elif age < keep.days:
                yield Piece(name, size, _young(age, keep))
            else:
                yield Piece(name, size, f"used {age:.0f} days ago", (place,))


def _worktrees(folder: Path, keep: Keep) -> Iterator[Piece]:
    for place in sorted(path for path in (folder / WORKTREES).glob("*") if path.is_dir()):
        what, size, age = (
            f"worktrees/{place.name}: a run with changes that failed",
            _size(place),
            _days(place, deep=True),
        )
        if under_way(place):
            yield Piece(what, size, "runs now")
        elif age < keep.days:
            yield Piece(what, size, _young(age, keep))
        else:
            yield Piece(what, size, f"used {age:.0f} days ago", (place,), worktree=True)


def _cache(folder: Path, keep: Keep) -> Iterator[Piece]:
    """Objects of DVC's cache that no kept version, branch, tag or experiment names."""
    from dvc.repo import Repo

    what = "DVC's cache"
    if not (folder / ".dvc").is_dir():
        return
    # of outputs that a branch names without a hash: they name nothing in the cache
    logging.getLogger("dvc.output").setLevel(logging.ERROR)
    with Repo(str(folder)) as repo:
        cache = repo.cache.local
        place = Path(cache.path)
        if not place.is_relative_to(folder / ".dvc"):
            yield Piece(f"{what} ({place})", _size(place), "other projects may use it; `dvc gc --projects` knows them")
            return
        trees = [tree for place in (WORKTREES, QUEUE) for tree in (folder / place).glob("*") if tree.is_dir()]
        if any(map(under_way, [folder, *trees])):
            yield Piece(what, _size(place), "a stage runs now")
            return
        kept, dropped = _revisions(folder, keep)
        # force: a folder that a clone has never had names nothing in its cache
        used = _hashes(repo, repo.used_objs(revs=kept, all_branches=True, all_experiments=True, force=True))
        for tree in trees:
            for config in tree.glob("**/.dvc/config.local"):
                with Repo(str(config.parents[1])) as other:
                    used |= _hashes(repo, other.used_objs(force=True))
        paths = {oid: Path(cache.oid_to_path(oid)) for oid in cache.all()}
        unused = tuple(path for oid, path in paths.items() if oid not in used)
        why = (
            "no kept version, branch, tag or experiment names them"
            + f"; {dropped} older versions are not kept" * bool(dropped)
        )
        yield Piece(f"{what}: {len(unused)} objects", _size(*unused), why, unused)
        rest = [path for oid, path in paths.items() if oid in used]
        yield Piece(f"{what}: {len(rest)} objects", _size(*rest), "versions, branches, tags or experiments name them")


def _revisions(folder: Path, keep: Keep) -> tuple[list[str], int]:
    """Name the tags whose data stays, and count the versions whose data does not."""
    old = [] if keep.versions is None else [version.name for version in versions(folder)[keep.versions :]]
    tags = git(folder, "tag", "--list", check=False).splitlines()
    assert all(name.startswith(PREFIX) for name in old)
    return [tag for tag in tags if tag not in old], len(old)


def _hashes(repo: Any, used: Any) -> set[str]:
    """Name the objects of outputs, and those in their folders."""
    from dvc_data.hashfile.tree import Tree

    found: set[str] = set()
    for infos in used.values():
        for info in infos:
            found.add(info.value)
            if info.isdir:
                try:
                    tree = Tree.load(repo.cache.local, info)
                except FileNotFoundError:  # not in this cache
                    continue
                found |= {member.value for _, _, member in tree}
    return found


def _records(folder: Path) -> Iterator[Piece]:
    places = [path for name in ("mlartifacts", "mlflow.db") if (path := folder / name).exists()]
    yield Piece("MLflow's records and models", _size(*places), "`mlflow gc` removes what was deleted in its pages")


def _young(age: float, keep: Keep) -> str:
    return f"used {age:.1f} days ago, less than {keep.days:g} (machine.yaml: keep.days)"


def _days(path: Path, deep: bool = False) -> float:
    """Days since a file, a folder or an entry of it was written; `deep`: or anything below it."""
    times = [path.lstat().st_mtime, *(entry.lstat().st_mtime for entry in path.glob("**/*" if deep else "*"))]
    return (time.time() - max(times)) / DAY


def _size(*paths: Path) -> int:
    """Bytes of files and of all files below folders; hard links count once."""
    seen: dict[tuple[int, int], int] = {}
    left = list(paths)
    while left:
        path = left.pop()
        try:
            about = path.lstat()
            if path.is_dir() and not path.is_symlink():
                left += map(Path, os.scandir(path))
            else:
                seen[about.st_dev, about.st_ino] = about.st_size
        except FileNotFoundError:
            continue
    return sum(seen.values())
