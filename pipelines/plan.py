"""What `dvc repro` would run here, and why, before anything runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moco.errors import MocoError
from moco.progress import duration
from moco.text import shown
from moco.tracking import flat
from moco.yaml_files import read_yaml
from pipelines.stage import PARAMS, seconds_of

ALWAYS = "always changed"
NAMED = 4


class Planned(NamedTuple):
    """What becomes of one stage.

    Attributes:
        stage: its name.
        runs: it runs; None: if a stage before it makes something new.
        why: one line; empty where it is up to date.
        seconds: that it took the last time here; None: unknown.
    """

    stage: str
    runs: bool | None
    why: str
    seconds: float | None


def plan(folder: Path, pipeline: str = "dvc.yaml") -> list[Planned]:
    """Compare a project with what its outputs were made of; nothing is read but hashes.

    Args:
        folder: the project's.
        pipeline: its file.

    Raises:
        MocoError: it is no pipeline, or DVC cannot read it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(folder)) as repo:
            status = repo.status()
            graph = repo.index.graph  # edges point from a stage to what it needs
            stages = {stage.addressing: stage for stage in graph if stage.path_in_repo == pipeline}
            needs = {name: [one.addressing for one in graph.successors(stage)] for name, stage in stages.items()}
    except DvcException as error:
        raise MocoError(f"{folder / pipeline}: {' '.join(str(error).split())}") from None
    lock = read_yaml(folder / "dvc.lock").get("stages", {}) if (folder / "dvc.lock").exists() else {}
    found: dict[str, Planned] = {}
    for name in _ordered(needs):
        reasons = [*_reasons(status.get(name, []), lock.get(name, {}), folder)]
        before = [one for one in needs[name] if one in found and found[one].why]
        if reasons:
            found[name] = Planned(name, True, "; ".join(reasons), seconds_of(name))
        elif before:
            found[name] = Planned(name, None, f"if {', '.join(before)} makes something new", seconds_of(name))
        elif ALWAYS in status.get(name, []):
            found[name] = Planned(name, None, "", seconds_of(name))  # it looks, and mostly finds nothing
        else:
            found[name] = Planned(name, False, "", None)
    return list(found.values())


def lines(found: list[Planned]) -> Iterator[str]:
    """Say it, a line a stage."""
    known = 0.0
    for one in found:
        took = f" (took {duration(one.seconds)} the last time)" if one.seconds is not None and one.why else ""
        if one.why:
            yield f"{'runs' if one.runs else 'may run':<10} {one.stage}: {one.why}{took}"
            known += one.seconds or 0.0
        else:
            yield f"{'up to date' if one.runs is False else 'looks':<10} {one.stage}" + (
                "" if one.runs is False else ": whether there is anything new"
            )
    open_ones = [one.stage for one in found if one.why and one.seconds is None]
    if known:
        without = f", without {', '.join(open_ones)}, which ended nowhere here yet" if open_ones else ""
        yield f"together about {duration(known)}, as they took the last time{without}"


def _ordered(needs: dict[str, list[str]]) -> list[str]:
    from graphlib import TopologicalSorter

    return [name for name in TopologicalSorter(needs).static_order() if name in needs]


def _reasons(status: list[Any], lock: dict[str, Any], folder: Path) -> Iterator[str]:
    changes: dict[str, Any] = {}
    for one in status:
        if isinstance(one, dict):
            for kind, values in one.items():
                changes.setdefault(kind, {}).update(values)
    if not lock and status:
        yield "it has not run yet"
        return
    changed = {path: how for path, how in changes.get("changed deps", {}).items() if path != str(PARAMS)}
    if str(PARAMS) in changes.get("changed deps", {}):
        yield from _params(lock.get("params", {}).get(str(PARAMS), {}), folder)
    for what, group in (
        ("code", [p for p in changed if p.partition("/")[0] in ("moco", "pipelines")]),
        ("input", None),
    ):
        paths = group if group is not None else [p for p in changed if p.partition("/")[0] not in ("moco", "pipelines")]
        if paths:
            more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
            yield f"{what} changed: {', '.join(paths[:NAMED])}{more}"
    if outputs := changes.get("changed outs", {}):
        yield f"outputs missing or changed: {', '.join(list(outputs)[:NAMED])}"


def _params(before: dict[str, Any], folder: Path) -> Iterator[str]:
    values = read_yaml(folder / PARAMS)
    for section, old in before.items():  # a section, or a key in one
        there: Any = values
        for name in section.split("."):
            there = there.get(name) if isinstance(there, dict) else None
        then, now = flat({section: old}), flat({section: there})
        for key in sorted(then.keys() | now.keys()):
            if then.get(key) != now.get(key):
                yield f"{key} {shown(then.get(key))} -> {shown(now.get(key))}"
