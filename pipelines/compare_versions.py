"""What differs between two versions: data, settings, code, encoder and figures."""

import tempfile
from pathlib import Path
from typing import Any

from moco.features.intervals import beyond_chance
from moco.sources.manifest import lines, read_manifest
from pipelines.stage import RAW
from pipelines.versions import MAIN, Version, git, lock_of, settings

CODE = ("moco", "pipelines", "flows", "dvc.yaml", "requirements.lock")
MOST = 40
"""Settings that are printed."""


def difference(folder: Path, old: Version, new: Version) -> list[str]:
    """Say in lines what differs from `old` to `new`."""
    locks = [lock_of(folder, version.name) for version in (old, new)]
    return [
        f"data      {_data(folder, old, new)}",
        *(
            f"{'settings' if not number else '':<10}{line}"
            for number, line in enumerate(_settings(*map(settings, locks)))
        ),
        f"code      {_code(folder, old, new)}",
        f"encoder   {_encoder(old, new)}",
        *_figures(old, new),
    ]


def _data(folder: Path, old: Version, new: Version) -> str:
    if old.data == new.data:
        return f"the same shards ({short(new.data)})"
    counts = f"{sum(old.images.values())} -> {sum(new.images.values())} images"
    text = f"{short(old.data)} -> {short(new.data)}, {counts}"
    tables = [_manifest(folder, version.name) for version in (old, new)]
    if None in tables:
        return f"{text}; which images is not known here: `dvc fetch --all-tags {RAW}` brings the manifests"
    before, after = (dict(table or {}) for table in tables)
    common = before.keys() & after.keys()
    moved = sum(before[digest] != after[digest] for digest in common)
    return f"{text}: {len(after.keys() - common)} added, {len(before.keys() - common)} removed, {moved} with another label or split"


def _manifest(folder: Path, version: str) -> dict[str, tuple[str, str]] | None:
    """Read label and split of each image's content; None: the manifest is not in the cache."""
    from dvc.repo import Repo

    try:
        with tempfile.TemporaryDirectory() as scratch, Repo(str(folder)) as repo, repo.switch(version):
            for path in repo.dvcfs.ls(str(RAW), detail=False):
                if path.endswith((".csv", ".json")):
                    (Path(scratch) / Path(path).name).write_bytes(repo.dvcfs.cat_file(path))
            found = lines(Path(scratch), read_manifest(Path(scratch)))
            return {row.sha256: (row.label, row.split) for _, _, row, removed, _ in found if not removed}
    except Exception:  # of DVC, of its cache, or of the remote it asks then
        return None


def _settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    lines = [f"{key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}" for key in keys]
    return [*lines[:MOST], *([f"and {len(lines) - MOST} more"] if len(lines) > MOST else [])] or ["the same"]


def _code(folder: Path, old: Version, new: Version) -> str:
    changed = git(folder, "diff", "--name-only", old.name, new.name, "--", *CODE).splitlines()
    return f"{len(changed)} files: `git diff {old.name} {new.name}`" if changed else "the same"


def _encoder(old: Version, new: Version) -> str:
    if old.encoder == new.encoder:
        return f"the same ({short(new.encoder)})"
    starts = [
        f"{version.start['uri']}, version {version.start['version']}" if version.start else "no other encoder"
        for version in (old, new)
    ]
    return f"{short(old.encoder)} -> {short(new.encoder)}; began with {' -> '.join(dict.fromkeys(starts))}"


def _figures(old: Version, new: Version) -> list[str]:
    """Tabulate figures that both have and that differ; for accuracies, whether beyond chance."""
    names = [name for name in new.figures if name in old.figures and not name.endswith(("_low", "_high"))]
    changed = [name for name in names if old.figures[name] != new.figures[name]]
    if not changed:
        return ["figures   the same"]
    lines = [f"{'figures':<10}{'':<34}{old.name:>22}{new.name:>22}"]
    images = new.images.get("test", 0)
    for name in changed:
        before, after = old.figures[name], new.figures[name]
        line = f"{'':<10}{name:<34}{before:>22.5g}{after:>22.5g}"
        if name in MAIN and old.images.get("test") and images:
            better, worse = max(before, after), min(before, after)
            line += (
                "  beyond chance"
                if beyond_chance(better, worse, min(images, old.images["test"]))
                else "  may be chance"
            )
        lines.append(line)
    return lines


def short(digest: str | None) -> str:
    """Give the first characters of a hash."""
    return digest[:8] if digest else "–"
