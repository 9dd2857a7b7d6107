"""One stage of the graph as a Prefect task, and the other commands a run consists of."""

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import children
from moco import tracking
from moco.config import load_params
from moco.errors import MocoError

SECONDS_BETWEEN_PROGRESS = 2.0
Slots = SimpleQueue[dict[str, str]]
"""Shares of the machine that are free, as environment variables."""

DVC_HINTS = re.compile(
    r"To track the changes with git, run:|\s+git add |To enable auto staging, run:"
    r"|\s+dvc config core\.autostage|Use `dvc push`"
)
"""DVC's advice after each stage to someone at a terminal; in a log of stages it hides what they
say."""


class _NoTraceback(logging.Filter):
    """A MocoError is one line for a person to read; Prefect would log it with the traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], MocoError):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_NoTraceback())


class StageFailedError(MocoError):
    """A stage did not finish.

    Attributes:
        again: whether another try may help. Not where the stage said what its reader must correct.
    """

    def __init__(self, text: str, again: bool) -> None:
        super().__init__(text)
        self.again = again


def worth_another_try(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect not to retry a stopped run, nor a mistake that a person must correct."""
    error = state.result(raise_on_failure=False)
    return not children.stopping() and (not isinstance(error, MocoError) or getattr(error, "again", False))


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,  # DVC is the cache
    retry_delay_seconds=5,
    retry_condition_fn=worth_another_try,
)
def run_stage(stage: str, folder: Path, env: Mapping[str, str], remote: bool, slots: Slots | None = None) -> None:
    """Bring one stage up to date by `dvc repro --single-item`, which skips what has not changed.

    Where a default DVC remote is configured, missing outputs are pulled and new ones pushed. With
    `slots` it waits for one of these shares of the machine, and keeps to it.
    """
    share = slots.get() if slots else {}
    try:
        bring_up_to_date(stage, folder, {**env, **share}, remote)
    finally:
        if slots:
            slots.put(share)


def bring_up_to_date(stage: str, folder: Path, env: Mapping[str, str], remote: bool, bar: str | None = None) -> bool:
    """Do what `run_stage` does, within the task that calls it.

    Args:
        stage: its name.
        folder: where dvc.yaml is.
        env: of the stage.
        remote: whether to pull from the default DVC remote, and push to it.
        bar: what its progress bar is called; None: as the stage is.

    Returns:
        Whether the stage ran; else DVC had its outputs already.
    """
    pull = ["--pull"] if remote else []
    # Without --single-item two siblings collide.
    ran = _dvc(stage, ["repro", "--single-item", *pull, stage], folder, env, bar)
    if remote:
        _dvc(stage, ["push", stage], folder, env)
    return ran


def check_out(path: str, folder: Path, env: Mapping[str, str]) -> None:
    """Bring an output that dvc.lock names from the cache into the folder."""
    _dvc(path, ["checkout", path], folder, env)


@task(task_run_name="save experiment {name}", cache_policy=NO_CACHE)
def save_experiment(name: str, stages: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Save the worktree's state as a DVC experiment, once every stage is up to date."""
    save(name, stages, folder, env)


def save(name: str, stages: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Do what `save_experiment` does, within the task that calls it."""
    status = children.run(_command(["status", "-q", *stages]), folder, env, get_run_logger().info)
    if status.code:  # saving now would record stages that do not belong to these parameters
        raise MocoError(f"{folder}: `dvc status` is not clean: inputs changed during the run; run it again")
    _dvc(name, ["exp", "save", "--force", "--name", name, *stages], folder, env)


def environment(workspace: Path, flow_run: str, pipeline_run: str | None) -> dict[str, str]:
    """Make the environment of the stages."""
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PYTHONUNBUFFERED"] = "1"  # lines reach the log as they are printed
    env["MOCO_RUNS"] = str(Path(env.get("MOCO_RUNS", workspace / "runs")).resolve())
    env["MOCO_FLOW_RUN"] = flow_run
    env["MOCO_PIPELINE_RUN"] = pipeline_run or ""  # empty: the stages shall not make one each
    env["MLFLOW_TRACKING_URI"] = tracking.tracking_uri()  # the workspace's, for a worktree too
    return env


def _command(arguments: list[str]) -> list[str]:
    # --wait-for-lock: else a lock that is held as a stage ends loses hours of work.
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def fetch_first_weights(folder: Path, env: Mapping[str, str]) -> None:
    """Fetch the registered model that `pretrain.init` names, before the stages look at it."""
    if load_params(folder / "params.yaml").pretrain.init.kind in ("model", "champion"):
        log = get_run_logger()
        result = children.run([sys.executable, "-m", "pipelines.start"], folder, env, log.info)
        if result.code:
            raise StageFailedError(f"start: {result.error or ' | '.join(result.tail[-3:])}", again=result.error is None)


def _dvc(stage: str, arguments: list[str], folder: Path, env: Mapping[str, str], bar: str | None = None) -> bool:
    """Run a command of DVC's, and say whether it ran a stage."""
    reporter = _Reporter(bar or stage)
    result = children.run(_command(arguments), folder, env, reporter.line)
    if result.code:
        said = result.error or " | ".join(result.tail[-3:]) or f"`dvc {arguments[0]}` ended with {result.code}"
        raise StageFailedError(f"{stage}: {said}", again=result.error is None)
    return reporter.ran


class _Reporter:
    """Turn a child's lines into log lines, and its progress lines into a bar in the UI."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.log = get_run_logger()
        self.artifact: UUID | None = None
        self.last = float("-inf")
        self.ran = False

    def line(self, text: str) -> None:
        self.ran |= text.startswith("Running stage ")
        if DVC_HINTS.match(text):
            return
        progress = children.PROGRESS.match(text)
        if progress is None:
            self.log.info(text)
            return
        percent, now = min(int(progress["percent"]), 100), time.monotonic()
        if now - self.last < SECONDS_BETWEEN_PROGRESS and percent < 100:
            return
        self.last = now
        self.log.info(text)
        try:
            self._show(float(percent), progress["note"])
        except Exception as error:  # a bar is not worth a stage that has run for hours
            self.log.warning("no progress bar: %s", error)

    def _show(self, percent: float, note: str) -> None:
        text = f"`{self.stage}` · {note}"
        if self.artifact is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"progress-{self.stage}".lower()).strip("-")
            made = create_progress_artifact(progress=percent, key=key, description=text)
            self.artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self.artifact, progress=percent, description=text)
