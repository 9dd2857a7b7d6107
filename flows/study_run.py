"""One run of a study as a Prefect task: a worktree, the stages, a DVC experiment, a record."""

import json
import platform
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import children, worktree
from flows.running import tracked
from flows.stages import Slots, bring_up_to_date, check_out, save, worth_another_try
from flows.study_plan import Planned, Site, code_of
from moco.config import load_params
from moco.cores import cores
from moco.errors import Interrupted, MocoError
from moco.runs import checkpoints
from moco.runs.curves import read_rows
from moco.study.definition import SECTIONS
from moco.study.record import Record, epochs_of, write
from pipelines.stage import PASSED, SHARDS

_TRAININGS = defaultdict[str, threading.Lock](threading.Lock)
"""Held by the one run that is about a training: of two that share it, the second finds it done."""


@task(
    task_run_name="{planned.run.name}",
    cache_policy=NO_CACHE,
    retry_delay_seconds=5,
    retry_condition_fn=worth_another_try,
)
def run_point(planned: Planned, site: Site, parent: str | None, slots: Slots) -> None:
    """Run the stages with a run's parameters in a folder of its own, and save what came of it.

    Stages that DVC has the outputs of are not run, and pretraining resumes from its last
    checkpoint. The experiment holds the outputs; the record beside the study's results holds the
    figures. The folder goes in any case.

    Args:
        planned: the run.
        site: where.
        parent: MLflow's id of the study's run.
        slots: it waits for one of these shares of the machine, and keeps to it.
    """
    with _TRAININGS[planned.training]:
        _with_a_share(planned, site, parent, slots)


def _with_a_share(planned: Planned, site: Site, parent: str | None, slots: Slots) -> None:
    name = planned.run.name
    share = slots.get()
    try:
        if children.stopping():
            raise Interrupted(f"not started: {name}; the study was stopped")
        key = ("study_run", f"{name} {planned.fingerprint}")
        folder = worktree.make(site.workspace, name, planned.run.changes)
        try:
            with tracked(name, str(flow_run.get_id()), parent, key) as pipeline_run:
                env = {**site.env, **share, "MOCO_PIPELINE_RUN": pipeline_run or "", "MOCO_REGISTER": "off"}
                _run(planned, site, folder, env, pipeline_run)
        finally:
            worktree.remove(site.workspace, folder)
    except Interrupted:
        raise
    except MocoError as error:
        error.args = (f"{name}: {error}",)
        raise
    finally:
        slots.put(share)


def _run(planned: Planned, site: Site, folder: Path, env: dict[str, str], pipeline_run: str | None) -> None:
    name = planned.run.name
    if code_of(folder) != site.code:  # the folder has the workspace's code of now
        raise MocoError(
            f"code that the stages of {site.workspace / 'dvc.yaml'} depend on was edited while the study ran; start it again"
        )
    values = load_params(folder / "params.yaml")  # likewise
    if any(getattr(values, section) != getattr(planned.params, section) for section in SECTIONS):
        raise MocoError(f"{site.workspace / 'params.yaml'} was edited while the study ran; start it again")
    commit, edited = worktree.commit_of(site.workspace)
    training = Path(site.env["MOCO_RUNS"]) / f"pretrain-{planned.training}"
    mark = training / "study"  # goes aside with the folder, if somebody restarts that training
    ours = mark.exists() or not training.exists()
    if ours:
        training.mkdir(parents=True, exist_ok=True)
        mark.touch()
    (folder / "dvc.lock").write_bytes(planned.data.lock)
    for path in (SHARDS, PASSED):  # not by the stages that made them: DVC would hash all images for each run
        check_out(str(path), folder, env)
    seconds, restored = {}, []
    for stage in site.stages:
        began = time.monotonic()
        if not bring_up_to_date(stage, folder, env, site.remote, bar=f"{name} {stage}"):
            restored.append(stage)
        seconds[stage] = round(time.monotonic() - began, 1)
    with worktree.ONE_AT_A_TIME:
        save(name, site.stages, folder, env | worktree.identity(folder))
        worktree.forget_experiments(folder, name)
    outputs = folder / "outputs"
    record = Record(
        name=name,
        series=planned.run.series,
        x=planned.run.x,
        seed=planned.run.seed,
        place=planned.place,
        fingerprint=planned.fingerprint,
        commit=commit,
        edited=edited,
        data_hash=planned.data.digest,
        seconds=seconds,
        restored=restored,
        metrics={stage: _json(outputs / stage / "metrics.json") for stage in ("pretrain", "linear")},
        epochs=epochs_of(read_rows(outputs / "pretrain/curves.csv"), read_rows(outputs / "pretrain/readings.csv")),
        machine=this_machine(),
        tracked=pipeline_run,
    )
    write(site.folder(planned.run.study, planned.run.scale) / f"{name}.json", record)
    if ours:  # the encoder is in the experiment, and a study has many runs
        checkpoints.forget(training)
        mark.touch()  # changed code has begun a new folder
        if list(training.iterdir()) == [mark]:  # all was restored; who trains it later is somebody else
            shutil.rmtree(training)
    get_run_logger().info("%s: %s", name, ", ".join(f"{stage} {took:.0f} s" for stage, took in seconds.items()))


def this_machine() -> str:
    """Cores and processor, in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{cores()} cores of {model or platform.processor() or platform.machine()}"


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
