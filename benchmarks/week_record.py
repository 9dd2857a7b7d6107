"""What is on record after a week of nights, and where it contradicts what happened."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.stage import ENCODER, SHARDS
from pipelines.versions import Version, git, lock_of, output_hash, versions


@dataclass
class Night:
    """What happened in a night.

    Attributes:
        name: of the day.
        story: what was done.
        runs: Prefect's runs, oldest first: id, name, state, seconds.
        version: that the night made; None: none.
        champion: MLflow's number of the best encoder after it.
        promotion: what stage linear said of it.
        expected: states of the runs, whether a version was to come, and whether a new champion;
            None: as the figures decide.
    """

    name: str
    story: str
    expected: tuple[tuple[str, ...], bool, bool | None]
    runs: list[tuple[str, str, str, float]] = field(default_factory=list)
    version: str | None = None
    champion: str | None = None
    promotion: str = ""


@dataclass(frozen=True)
class Tracked:
    """A run in MLflow.

    Attributes:
        name: as the page shows it.
        status: FINISHED, FAILED, KILLED or RUNNING.
        tags: of the run.
        parent: id of the run that it hangs under.
        steps: of the loss, in the order in which they were recorded.
    """

    name: str
    status: str
    tags: dict[str, str]
    parent: str | None
    steps: list[int]


@dataclass(frozen=True)
class Record:
    """Everything that was written down.

    Attributes:
        versions: of git, the oldest first.
        tracked: MLflow's runs by id.
        registered: MLflow's number of a model -> its aliases and tags.
        flow_runs: Prefect's runs, the oldest first.
        dirty: what git lists as changed or new.
    """

    versions: list[Version]
    tracked: dict[str, Tracked]
    registered: dict[str, tuple[list[str], dict[str, str]]]
    flow_runs: list[dict[str, Any]]
    dirty: list[str]


def read(folder: Path, flow_runs: list[dict[str, Any]]) -> Record:
    """Read git and MLflow of a project.

    Args:
        folder: the project's.
        flow_runs: of Prefect.
    """
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name == "moco")
    tracked = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        points = client.get_metric_history(run.info.run_id, "loss")
        tags = dict(run.data.tags)
        tracked[run.info.run_id] = Tracked(
            run.info.run_name, run.info.status, tags, tags.get("mlflow.parentRunId"), [point.step for point in points]
        )
    registered = {}
    for found in client.search_model_versions("name = 'moco-encoder'"):
        whole = client.get_model_version(found.name, found.version)  # a search leaves the aliases out
        registered[str(found.version)] = (list(whole.aliases), dict(whole.tags))
    dirty = git(folder, "status", "--porcelain").splitlines()
    return Record(versions(folder)[::-1], tracked, registered, flow_runs, dirty)


def faults(record: Record, nights: list[Night], locks: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Say where the record contradicts itself or what happened.

    Args:
        record: what was written down.
        nights: what happened.
        locks: the dvc.lock of each version.
    """
    champion = None
    for night in nights:
        states, version, promoted = night.expected
        if (seen := tuple(state for _, _, state, _ in night.runs)) != states:
            yield f"{night.name}: runs ended {seen}, not {states}"
        if (night.version is not None) != version:
            yield f"{night.name}: version {night.version}, though {'one' if version else 'none'} was to come"
        moved = night.champion != champion
        if moved != ("is now version" in night.promotion) or promoted not in (None, moved):
            yield f"{night.name}: champion {champion} -> {night.champion} ({night.promotion})"
        champion = night.champion
    yield from _of_git(record, nights, locks)
    yield from _of_mlflow(record, nights)
    yield from _of_prefect(record, nights)


def _of_git(record: Record, nights: list[Night], locks: dict[str, dict[str, Any]]) -> Iterator[str]:
    made = [night.version for night in nights if night.version]
    if (named := [version.name for version in record.versions]) != made:
        yield f"git has the versions {named}, the nights made {made}"
    if record.dirty:
        yield f"git lists {record.dirty}"
    for version in record.versions:
        lock = locks[version.name]
        for what, path in (("data", SHARDS), ("encoder", ENCODER)):
            if getattr(version, what) != output_hash(lock, str(path)):
                yield f"{version.name}: its text names another {what} than its dvc.lock"
        seen = next(dep["md5"] for dep in lock["stages"]["pretrain"]["deps"] if dep["path"] == str(SHARDS))
        if seen != version.data:
            yield f"{version.name}: its encoder was trained on other shards than it holds"
    starts = [version.start and version.start["version"] for version in record.versions]
    known = [None, *(night.champion for night in nights)]
    for version, start in zip(record.versions, starts, strict=True):
        number = next(n for n, night in enumerate(nights) if night.version == version.name)
        if start != known[number]:
            yield f"{version.name}: began with version {start} of the registry; the champion was {known[number]}"


def _of_mlflow(record: Record, nights: list[Night]) -> Iterator[str]:
    runs = record.tracked
    for run_id, run in runs.items():
        if run.status not in ("FINISHED", "FAILED", "KILLED"):
            yield f"MLflow: {run.name} ({run_id}) is {run.status}"
        if run.parent and run.parent not in runs:
            yield f"MLflow: {run.name} ({run_id}) hangs under a run that is not there"
        if run.steps != sorted(set(run.steps)):
            yield f"MLflow: the loss of {run.name} ({run_id}) has steps twice or out of order: {run.steps[:5]}…"
    names = Counter(run.name for run in runs.values() if run.tags.get("kind") == "pipeline")
    if twice := [name for name, count in names.items() if count > 1]:
        yield f"MLflow: several pipeline runs have the name {twice}"
    for version in record.versions:
        parent = runs.get(version.mlflow_run or "")
        if parent is None or parent.tags.get("version") != version.name or parent.status != "FINISHED":
            yield f"MLflow: the run of {version.name} is {parent}"
        models = [number for number, (aliases, _) in record.registered.items() if version.name in aliases]
        if len(models) != 1 or record.registered[models[0]][1].get("version") != version.name:
            yield f"MLflow: {version.name} names the models {models}"
        elif record.registered[models[0]][1].get("training_hash") != version.training:
            yield f"MLflow: the model of {version.name} is of another training"
    if (count := len({version.encoder for version in record.versions})) != len(record.registered):
        yield f"MLflow: {len(record.registered)} registered encoders, {count} in the versions"
    holders = [number for number, (aliases, _) in record.registered.items() if "champion" in aliases]
    if holders != [nights[-1].champion]:
        yield f"MLflow: the champion is {holders}, and was {nights[-1].champion} after the last night"


def _of_prefect(record: Record, nights: list[Night]) -> Iterator[str]:
    happened = {run for night in nights for run, _, _, _ in night.runs}
    for run in record.flow_runs:
        versions_of = {tag for tag in run["tags"] if tag.startswith("version-")}
        named = {version.name for version in record.versions if version.flow_run == run["name"]}
        if run["id"] not in happened:
            yield f"Prefect: nobody asked for the run {run['name']} ({run['state_type']})"
        if versions_of != named:
            yield f"Prefect: {run['name']} has the tags {sorted(versions_of)}, and made {sorted(named)}"


def table(record: Record, nights: list[Night]) -> list[str]:
    """Write the week as a table of Markdown."""
    by_name = {version.name: version for version in record.versions}
    rows = [
        "| night | what happened | Prefect | version | images | began with | linear top-1, test | champion after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for night in nights:
        version = by_name.get(night.version or "")
        cells = ["–"] * 4
        if version:
            start = f"model {version.start['version']}" if version.start else "drawn weights"
            figure = version.figures.get("linear.moco.linear_top1")
            cells = [
                version.name.removeprefix("version-"),
                f"{sum(version.images.values())}",
                start,
                "–" if figure is None else f"{figure:.3f}",
            ]
        runs = ", ".join(f"{state.capitalize()} in {seconds:.0f} s" for _, _, state, seconds in night.runs)
        champion = f"model {night.champion}" if night.champion else "none"
        rows.append(f"| {night.name} | {night.story} | {runs} | {' | '.join(cells)} | {champion} |")
    return rows


def locks_of(folder: Path, record: Record) -> dict[str, dict[str, Any]]:
    """Read the dvc.lock of each version."""
    return {version.name: lock_of(folder, version.name) for version in record.versions}


def dump(path: Path, record: Record, nights: list[Night]) -> None:
    """Keep everything for a look."""
    values = {"nights": nights, "record": record}
    path.write_text(
        json.dumps(values, default=lambda one: vars(one) if hasattr(one, "__dict__") else str(one), indent=1)
    )
