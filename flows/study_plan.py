"""What a study has to run: its runs with the data they learn from, less those that are done."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import graph, remotes, worktree
from flows.running import run_stages
from moco.config import Params, load_params, settings_hash
from moco.errors import MocoError
from moco.images.index import ShardSet, open_split
from moco.images.subset import subset
from moco.runs.folder import training_hash
from moco.study.definition import SECTIONS, Study, Variant, place
from moco.study.record import Record, read
from moco.tracking import dvc_digest
from moco.training.checks import check
from pipelines.stage import SHARDS

DATA, LAST = "check", "linear"


@dataclass(frozen=True)
class Site:
    """Where a study runs.

    Attributes:
        workspace: the project's folder.
        env: of the stages.
        stages: those from pretraining on, in order.
        code: hash of the files that they depend on, and those before them.
        remote: the default DVC remote.
    """

    workspace: Path
    env: dict[str, str]
    stages: list[str]
    code: str
    remote: remotes.Remote | None

    @classmethod
    def of(cls, workspace: Path, env: dict[str, str]) -> "Site":
        """Read the workspace as it is now."""
        graph_ = graph.stages_in_order(workspace)
        before = graph.up_to(DATA, graph_)
        stages = [stage for stage in graph.up_to(LAST, graph_) if stage not in before]
        return cls(workspace, env, stages, code_of(workspace), remotes.look(workspace, env))

    def folder(self, study: str, scale: str) -> Path:
        """Where a study's records and results are."""
        return Path(self.env["MOCO_RUNS"]) / "studies" / f"{study}-{scale}"


@dataclass(frozen=True)
class Data:
    """Shards that were brought up to date.

    Attributes:
        digest: DVC's hash of them.
        lock: the dvc.lock that says how they were made.
        images: those to train on; their folder may be gone, their labels are here.
    """

    digest: str
    lock: bytes
    images: ShardSet


@dataclass(frozen=True)
class Planned:
    """A run that can be made.

    Attributes:
        run: of the study.
        params: params.yaml with its changes.
        place: on a numbered axis.
        data: the shards that it reads.
        training: names its pretraining, as the folder of its checkpoints does; runs that differ in
            `linear` alone share one.
        fingerprint: of all that decides its result.
        record: of it, if it was finished with this fingerprint.
    """

    run: Variant
    params: Params
    place: float | None
    data: Data
    training: str
    fingerprint: str
    record: Record | None


@dataclass
class Plan:
    """A study's runs, and those that this data or these settings rule out, each with the reason."""

    runs: list[Planned] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def plan(site: Site, study: Study, runs: list[Variant], retries: int) -> Plan:
    """Check every run, bring the data up to date, and see which runs are done.

    Raises:
        MocoError: a run's parameters are not allowed, or a stage before pretraining failed.
    """
    path = site.workspace / "params.yaml"
    params = [run.params(path) for run in runs]  # all of them before anything runs
    experiments = worktree.experiments(site.workspace)
    data: dict[str, Data] = {}
    found = Plan()
    for run, values in zip(runs, params, strict=True):
        changes = _of_data(run, values, load_params(path))
        key = json.dumps(changes, sort_keys=True)
        if key not in data:
            data[key] = _data(site, run, changes, len(data), retries)
        reason = _why_not(values, data[key])
        if reason:
            found.left_out[run.name] = reason
            continue
        print_ = fingerprint(values, site.code, data[key].digest)
        record = read(site.folder(run.study, run.scale) / f"{run.name}.json")
        done = record is not None and record.fingerprint == print_ and run.name in experiments
        where = place(study.axis.kind, run.x, values.pretrain.encoder)
        training = training_hash(values.pretrain, data[key].images.data_hash)
        found.runs.append(Planned(run, values, where, data[key], training, print_, record if done else None))
    return found


def fingerprint(params: Params, code: str, data_hash: str) -> str:
    """Names what decides a run's result: 16 hex digits."""
    return settings_hash({name: getattr(params, name).model_dump() for name in SECTIONS}, code, data_hash)


def code_of(folder: Path) -> str:
    """Hash of the code that a run depends on, in the workspace or a worktree."""
    stages = graph.up_to(LAST, graph.stages_in_order(folder))
    return graph.code_hash(folder, stages, load_params(folder / "params.yaml").fetch.path)


def _of_data(run: Variant, params: Params, workspace: Params) -> dict[str, Any]:
    """Give the changes that make other shards than the workspace's."""
    return {
        key: value
        for key, value in run.changes.items()
        for section in [key.split(".")[0]]
        if section in ("fetch", "shard") and getattr(params, section) != getattr(workspace, section)
    }


def _data(site: Site, run: Variant, changes: Mapping[str, Any], number: int, retries: int) -> Data:
    """Bring the shards up to date in the workspace, or in a worktree that lives as long as this."""
    if not changes:
        return _shards(site.workspace, site, retries)
    folder = worktree.make(site.workspace, f"{run.study}-{run.scale}-data{number}", changes)
    try:
        return _shards(folder, site, retries)
    finally:
        worktree.remove(site.workspace, folder)


def _shards(folder: Path, site: Site, retries: int) -> Data:
    run_stages(folder, site.env, retries, until=DATA)
    digest = dvc_digest(str(SHARDS), folder / "dvc.lock")
    if digest is None:
        raise MocoError(f"{folder / 'dvc.lock'}: does not name {SHARDS}; run `dvc repro shard`")
    images = open_split(folder / SHARDS, "train")
    assert images.labels is not None  # read now
    return Data(digest, (folder / "dvc.lock").read_bytes(), images)


def _why_not(params: Params, data: Data) -> str | None:
    settings = params.pretrain
    chosen = subset(data.images, settings.images, settings.images_fraction, settings.seed).chosen
    images = len(data.images.labels if chosen is None else chosen)
    if not images:
        return f"pretrain.images = {settings.images}: there is no such training image"
    try:
        check(settings, images, 1)
    except MocoError as error:
        return str(error)
    return None
