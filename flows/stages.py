"""One stage of the graph as a Prefect task, and the other commands a run consists of."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import children
from flows.card import show_card, show_report
from flows.remotes import Remote
from flows.reporter import Reporter
from moco import tracking
from moco.config import load_params
from moco.errors import MocoError
from pipelines.cache import Cache
from pipelines.driver import DRIVER
from pipelines.stage import RAW, SHARDS

Slots = SimpleQueue[dict[str, str]]
"""Shares of the machine that are free, as environment variables."""


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
        by_dvc: whether DVC said it, before any stage ran.
    """

    def __init__(self, text: str, again: bool, by_dvc: bool = False) -> None:
        super().__init__(text)
        self.again, self.by_dvc = again, by_dvc


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
def run_stage(
    stage: str, folder: Path, env: Mapping[str, str], remote: Remote | None, slots: Slots | None = None
) -> None:
    """Bring one stage up to date by `dvc repro --single-item`, which skips what has not changed.

    Where a default DVC remote answers, missing outputs are pulled and new ones pushed. With `slots`
    it waits for one of these shares of the machine, and keeps to it.
    """
    share = slots.get() if slots else {}
    try:
        if stage == "pretrain":
            fetch_first_weights(folder, env)
        bring_up_to_date(stage, folder, {**env, **share}, remote)
        if stage == "report":
            show_report(folder)
    finally:
        if stage == "check" and not children.stopping():
            show_card(folder)
        if slots:
            slots.put(share)


def bring_up_to_date(
    stage: str, folder: Path, env: Mapping[str, str], remote: Remote | None, bar: str | None = None
) -> bool:
    """Do what `run_stage` does, within the task that calls it.

    A remote that does not answer stops nothing that can be done without it.

    Args:
        stage: its name.
        folder: where dvc.yaml is.
        env: of the stage.
        remote: the default DVC remote, to pull from and push to.
        bar: what its progress bar is called; None: as the stage is.

    Returns:
        Whether the stage ran; else DVC had its outputs already.
    """
    try:
        ran = _repro(stage, folder, env, remote, bar)
    except StageFailedError as error:
        if remote and error.by_dvc:
            error.args = (f"{error}{remote.asked_in_vain()}",)
        raise
    if remote:
        remote.changed |= ran
        _push(stage, [stage], folder, env, remote)
    return ran


def _repro(stage: str, folder: Path, env: Mapping[str, str], remote: Remote | None, bar: str | None) -> bool:
    command = ["repro", "--single-item", stage]  # without --single-item two siblings collide
    if stage == "fetch" and remote and remote.usable and (folder / "dvc.lock").exists() and not (folder / RAW).exists():
        # DVC pulls nothing for a stage that always runs, and this one adds to what there is.
        with suppress(StageFailedError):
            _dvc(stage, ["pull", "fetch", "shard"], folder, env, bar)
    if remote and remote.usable:
        try:
            return _dvc(stage, [*command, "--pull"], folder, env, bar)
        except StageFailedError as error:
            if not error.by_dvc:
                raise
            reason = str(error)
        try:
            ran = _dvc(stage, command, folder, env, bar)
        except StageFailedError as error:
            if str(error) != reason:  # else it was not for the remote
                remote.lose(reason.removeprefix(f"{stage}: "))
            raise
        remote.lose(reason.removeprefix(f"{stage}: "))
        return ran
    return _dvc(stage, command, folder, env, bar)


def _push(what: str, arguments: list[str], folder: Path, env: Mapping[str, str], remote: Remote) -> None:
    if remote.usable:
        try:
            _dvc(what, ["push", *arguments], folder, env)
            return
        except StageFailedError as error:
            remote.lose(str(error).removeprefix(f"{what}: "))
    remote.missed(what)


def end_with_remote(remote: Remote | None, stages: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Push how outputs were made, for other clones to restore them, or say what was not pushed."""
    if remote is None:
        return
    if remote.usable and remote.changed:
        _push("run-cache", ["--run-cache", *stages], folder, env, remote)
    if said := remote.outcome():
        get_run_logger().warning(said)


def check_out(path: str, folder: Path, env: Mapping[str, str]) -> None:
    """Bring an output that dvc.lock names from the cache into the folder."""
    _dvc(path, ["checkout", path], folder, env)


def check_out_data(folder: Path, env: Mapping[str, str]) -> None:
    """Bring images' list and shards into a worktree as DVC does: as links, if so configured.

    Else the stages would bring them, and DVC would then hash every byte of them. What the cache
    holds in part is left to the stages, which say so.
    """
    cache = Cache()
    for path in (RAW, SHARDS):
        digest = tracking.dvc_digest(str(path), folder / "dvc.lock")
        if digest and cache.holds(digest):
            check_out(str(path), folder, env)


@task(task_run_name="save experiment {name}", cache_policy=NO_CACHE)
def save_experiment(name: str, stages: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Save the worktree's state as a DVC experiment, once every stage is up to date."""
    save(name, stages, folder, env)


def save(name: str, stages: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Do what `save_experiment` does, within the task that calls it."""
    require_up_to_date(folder, stages, env)
    _dvc(name, ["exp", "save", "--force", "--name", name, *stages], folder, env)


def require_up_to_date(folder: Path, stages: list[str], env: Mapping[str, str]) -> None:
    """See that what the stages read is still what they made their outputs of.

    A stage that looks each time, such as `fetch`, is never up to date by itself.

    Raises:
        MocoError: something was edited meanwhile.
    """
    lines: list[str] = []
    done = children.run(_command(["status", "--json", *stages]), folder, env, lines.append)
    found = json.loads(next((line for line in lines if line.startswith("{")), "null"))
    if done.code or found is None or any(reasons != ["always changed"] for reasons in found.values()):
        # saving now would record stages that do not belong to these parameters
        raise MocoError(f"{folder}: `dvc status` is not clean: inputs changed during the run; run it again")


def environment(workspace: Path, flow_run: str, pipeline_run: str | None) -> dict[str, str]:
    """Make the environment of the stages."""
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env[DRIVER] = str(os.getpid())
    env["PYTHONUNBUFFERED"] = "1"  # lines reach the log as they are printed
    env["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # as they are read
    env["MOCO_RUNS"] = str(Path(env.get("MOCO_RUNS", workspace / "runs")).resolve())
    env["MOCO_FLOW_RUN"] = flow_run
    env["MOCO_PIPELINE_RUN"] = pipeline_run or ""  # empty: the stages shall not make one each
    env["MLFLOW_TRACKING_URI"] = tracking.tracking_uri()  # the workspace's, for a worktree too
    return env


def _command(arguments: list[str]) -> list[str]:
    # --wait-for-lock: else a lock that is held as a stage ends loses hours of work.
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def fetch_first_weights(folder: Path, env: Mapping[str, str]) -> None:
    """Fetch the registered model that `pretrain.init` names, once the images are there."""
    if load_params(folder / "params.yaml").pretrain.init.kind in ("model", "champion"):
        log = get_run_logger()
        result = children.run([sys.executable, "-m", "pipelines.start"], folder, env, log.info)
        if result.code:
            raise StageFailedError(f"start: {result.error or ' | '.join(result.tail[-3:])}", again=result.error is None)


def _dvc(stage: str, arguments: list[str], folder: Path, env: Mapping[str, str], bar: str | None = None) -> bool:
    """Run a command of DVC's, and say whether it ran a stage."""
    reporter = Reporter(bar or stage)
    result = children.run(_command(arguments), folder, env, reporter.line)
    if result.code:
        of_dvc = next((line for line in reversed(result.tail) if line.startswith("ERROR: ")), "")
        by_dvc = bool(of_dvc) and not reporter.ran
        said = result.error or (by_dvc and of_dvc.removeprefix("ERROR: ").removeprefix("unexpected error - "))
        said = said or " | ".join(result.tail[-3:]) or f"`dvc {arguments[0]}` ended with {result.code}"
        raise StageFailedError(f"{stage}: {said}", again=result.error is None, by_dvc=by_dvc)
    return reporter.ran
