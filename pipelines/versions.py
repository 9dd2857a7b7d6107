"""Versions of the project: dvc.lock in a commit of its own, and a git tag that tells what it holds.

A version is an annotated tag `version-DATE`; its text is one line and a record in JSON, so that
versions are listed without the data. Every other tool of git and DVC takes the name too.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from moco.errors import MocoError
from moco.files import read_note
from moco.tracking import flat
from pipelines.stage import ENCODER, SHARDS

PREFIX = "version-"
LOCK = "dvc.lock"
STATED = ("dvc.yaml", "params.yaml")
"""What states a run besides what its stages read."""
ORIGIN = Path("data/start/model/origin.json")
MAIN = ("linear.moco.linear_top1", "linear.moco.knn_top1")
"""Figures of one line; accuracies on the test split."""


@dataclass(frozen=True)
class Version:
    """What a tag tells of a version.

    Attributes:
        name: the tag.
        date: when it was named, ISO 8601 with the zone.
        data: DVC's hash of the shards.
        images: in each split.
        encoder: DVC's hash of the encoder's folder.
        training: names the settings and data of its pretraining.
        start: the registered model that pretraining began with; None: none.
        figures: STAGE.NAME -> number, of every metrics file.
        flow_run: Prefect's name of the run.
        mlflow_run: MLflow's id of the run.
    """

    name: str
    date: str
    data: str | None = None
    images: dict[str, int] = field(default_factory=dict)
    encoder: str | None = None
    training: str | None = None
    start: dict[str, str] | None = None
    figures: dict[str, float] = field(default_factory=dict)
    flow_run: str | None = None
    mlflow_run: str | None = None

    @property
    def title(self) -> str:
        """One line."""
        parts = [f"{sum(self.images.values())} images"] if self.images else []
        parts += [f"{name.rpartition('.')[2]} {self.figures[name]:.4f}" for name in MAIN if name in self.figures]
        return ": ".join([self.name, ", ".join(parts)]) if parts else self.name


def name_version(
    folder: Path, env: Mapping[str, str], before: Iterable[str], **notes: str | None
) -> tuple[Version, bool]:
    """Commit dvc.lock alone and tag the commit; or find the version that has the same lock.

    Args:
        folder: the project's, every stage up to date.
        env: for git, with an author.
        before: paths that differed from the commit as the run began (`edited`).
        notes: flow_run and mlflow_run.

    Returns:
        The version, and whether it is new.

    Raises:
        MocoError: what the stages read is not committed, so that the version could not be made
            again; or git refuses.
    """
    if not (folder / LOCK).exists():
        raise MocoError(f"{folder / LOCK}: no such file, so there is nothing to name; run the stages first")
    if uncommitted := edited(folder, _read_by_stages(folder)):
        which = ", ".join(sorted(uncommitted)[:5]) + ", …" * (len(uncommitted) > 5)
        raise MocoError(f"{which}: not committed, and no version is made of what no commit holds; commit it")
    known = versions(folder)
    mine = git(folder, "hash-object", LOCK)
    for version in known:
        if git(folder, "rev-parse", "--quiet", "--verify", f"{version.name}:./{LOCK}", check=False) == mine:
            return version, False
    version = describe(folder, free_name({one.name for one in known}), **notes)
    if changed := sorted(_ignored_by_dvc(folder, set(before)) | (edited(folder, [LOCK]) & {LOCK})):
        commit(folder, env, version.title, changed)
    text = f"{version.title}\n\n{json.dumps(asdict(version), indent=1)}\n"
    git(folder, "tag", "--annotate", "--no-sign", "--cleanup=verbatim", "--file=-", version.name, env=env, text=text)
    return version, True


def commit(folder: Path, env: Mapping[str, str], title: str, paths: list[str]) -> None:
    """Commit some files as they are, and nothing else that is staged.

    Raises:
        MocoError: git refuses; what is staged is as it was.
    """
    new = [path for path in paths if not git(folder, "ls-files", "--", path)]
    options = ("--quiet", "--no-verify", "--no-gpg-sign", "--only")
    try:
        if new:
            git(folder, "add", "--intent-to-add", "--", *new, env=env)
        git(folder, "commit", *options, "-m", title, "--", *paths, env=env)
    except BaseException:
        if new:
            git(folder, "reset", "--quiet", "--", *new, check=False)
        raise


def versions(folder: Path) -> list[Version]:
    """List every version, the newest first; tags of other kinds are left out."""
    listed = git(
        folder,
        "for-each-ref",
        "--sort=-creatordate",
        "--format=%(refname:short)%00%(contents)%00",
        f"refs/tags/{PREFIX}*",
    )
    parts = listed.split("\0")
    found = []
    for name, text in zip(parts[::2], parts[1::2], strict=False):
        with suppress(ValueError, TypeError):
            values = json.loads(text.partition("\n\n")[2])
            known = {one.name for one in fields(Version)}
            found.append(
                Version(**{key: value for key, value in values.items() if key in known} | {"name": name.strip()})
            )
    return sorted(found, key=lambda version: datetime.fromisoformat(version.date), reverse=True)


def find(folder: Path, name: str) -> Version:
    """Find a version by its name, with or without `version-`.

    Raises:
        MocoError: there is none.
    """
    known = versions(folder)
    for version in known:
        if version.name in (name, f"{PREFIX}{name}"):
            return version
    newest = ", ".join(version.name for version in known[:3]) or "none was made"
    raise MocoError(f"{name}: no such version; `moco versions` lists them (newest: {newest})")


def describe(folder: Path, name: str, **notes: str | None) -> Version:
    """Describe the project as its stages left it."""
    lock = _yaml((folder / LOCK).read_text(encoding="utf-8"))
    shards = read_note(folder / "outputs/shard/metrics.json")
    images = {split: part["images"] for split, part in shards.items() if isinstance(part, dict) and "images" in part}
    init = settings(lock).get("pretrain.init.kind")
    return Version(
        name=name,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        data=output_hash(lock, str(SHARDS)),
        images=images,
        encoder=output_hash(lock, str(ENCODER)),
        training=read_note(folder / ENCODER / "encoder.json").get("training_hash"),
        start=(read_note(folder / ORIGIN) or None) if init in ("model", "champion") else None,
        figures=_figures(folder),
        **notes,
    )


def free_name(taken: set[str]) -> str:
    """Make a name of today's date that no version has."""
    today = f"{PREFIX}{datetime.now():%Y-%m-%d}"
    return next(name for n in range(1, 10**6) if (name := today if n == 1 else f"{today}-{n}") not in taken)


def edited(folder: Path, paths: Iterable[str] = ()) -> set[str]:
    """Give paths, from `folder`, that differ from the commit or are new to git."""
    prefix = git(folder, "rev-parse", "--show-prefix")
    status = git(
        folder,
        "--no-optional-locks",
        "status",
        "--porcelain",
        "--no-renames",
        "-z",
        "--untracked-files=all",
        "--",
        *(list(paths) or ["."]),
    )
    return {entry[3:].removeprefix(prefix) for entry in status.split("\0") if entry[3:]}


def lock_of(folder: Path, version: str) -> dict[str, Any]:
    """Read the dvc.lock of a version."""
    return _yaml(git(folder, "show", f"{version}:./{LOCK}"))


def settings(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings that a dvc.lock was made with: `section.key` -> value."""
    found: dict[str, Any] = {}
    for stage in lock.get("stages", {}).values():
        found |= flat(stage.get("params", {}).get("params.yaml", {}))
    return found


def output_hash(lock: Mapping[str, Any], path: str) -> str | None:
    """Give DVC's hash of an output in a dvc.lock."""
    outs = (out for stage in lock.get("stages", {}).values() for out in stage.get("outs", []))
    return next((out.get("md5") for out in outs if out["path"] == path), None)


def git(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True, text: str | None = None
) -> str:
    """Run git and give what it prints.

    Raises:
        MocoError: it refuses.
    """
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=env and dict(env),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        input=text or "",
    )
    if done.returncode and check:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise MocoError(f"git {arguments[0]} in {folder}: {said}; versions need a git repository with a commit")
    return done.stdout.rstrip("\n")


def _ignored_by_dvc(folder: Path, before: set[str]) -> set[str]:
    """Find each .gitignore to which DVC alone added lines since the run began."""
    stages = _yaml((folder / LOCK).read_text(encoding="utf-8")).get("stages", {}).values()
    outs = [PurePosixPath(out["path"]) for stage in stages for out in stage.get("outs", [])]
    found = set()
    for path in map(PurePosixPath, edited(folder) - before):
        if path.name == ".gitignore" and (folder / path).is_file():
            known = git(folder, "show", f"HEAD:./{path}", check=False).splitlines()
            now = (folder / path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            own = {f"/{out.name}" for out in outs if out.parent == path.parent}
            if now[: len(known)] == known and set(now[len(known) :]) <= own:
                found.add(str(path))
    return found


def _read_by_stages(folder: Path) -> list[str]:
    """Name what stages read and no stage makes, inside the project."""
    stages = _yaml((folder / LOCK).read_text(encoding="utf-8")).get("stages", {}).values()
    outs = {out["path"] for stage in stages for out in stage.get("outs", [])}
    deps = {dep["path"] for stage in stages for dep in stage.get("deps", [])}
    made = {
        dep for dep in deps if any(dep == out or out.startswith(f"{dep}/") or dep.startswith(f"{out}/") for out in outs)
    }
    outside = {dep for dep in deps if dep.startswith(("/", "../")) or "://" in dep}
    return [*STATED, *sorted(deps - made - outside)]


def _figures(folder: Path) -> dict[str, float]:
    """Read every metrics file that dvc.yaml names."""
    found: dict[str, float] = {}
    for stage, about in _yaml((folder / "dvc.yaml").read_text(encoding="utf-8")).get("stages", {}).items():
        for entry in about.get("metrics", []):
            path = entry if isinstance(entry, str) else next(iter(entry))
            values = flat(read_note(folder / path))
            found |= {f"{stage}.{name}": value for name, value in values.items() if type(value) in (int, float)}
    return found


def _yaml(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text)
    return found if isinstance(found, dict) else {}
