"""The parent run: one for each run of the pipeline, whatever drives it."""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moco.tracking.connection import connect, describe, enabled, is_passing, project_root, where_to_look

if TYPE_CHECKING:
    import psutil
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"


def start_pipeline_run(
    name: str,
    flow_run: str | None = None,
    *,
    parent: str | None = None,
    key: tuple[str, str] | None = None,
    kind: str = "pipeline",
) -> str | None:
    """Begin the parent run of a pipeline, or reopen it when the same flow run is retried.

    Args:
        name: what the run is called in the UI.
        flow_run: id of the Prefect flow run.
        parent: id of the run that it hangs under, such as a study's.
        key: tag and value by which it is found again; None: the flow run, or the driving process.
        kind: pipeline, or study for a run that pipelines' runs hang under.

    Returns:
        The id, for the stages' MOCO_PIPELINE_RUN; None when tracking is off or out of reach.
    """
    if not enabled():
        return None
    import psutil

    try:
        client, experiment = connect()
        tags = {"driver": _address(psutil.Process()), "kind": kind}
        if flow_run:
            tags["flow_run"] = flow_run
        if parent:
            tags[PARENT] = parent
        name_of_key = "flow_run" if flow_run else "driver"
        return _open(client, experiment, name, key=key or (name_of_key, tags[name_of_key]), tags=tags)
    except Exception as error:
        print(describe(error, is_passing(error)), flush=True)
        return None


def add_to_run(
    run_id: str | None, metrics: Mapping[str, float], files: Iterable[Path], tags: Mapping[str, str]
) -> None:
    """Add figures, files and tags to a run that `start_pipeline_run` gave; None does nothing."""
    if run_id is None or not enabled():
        return
    try:
        client, _ = connect()
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        for tag, text in tags.items():
            client.set_tag(run_id, tag, text)
        for path in files:
            client.log_artifact(run_id, str(path))
    except Exception as error:
        print(describe(error, is_passing(error)), flush=True)


def end_pipeline_run(run_id: str | None, status: str) -> None:
    """Close a parent run, and its children that died without closing.

    Args:
        run_id: what `start_pipeline_run` gave; None does nothing.
        status: FINISHED, FAILED or KILLED.
    """
    if run_id is None or not enabled():
        return
    try:
        client, experiment = connect()
        _close(client, experiment, run_id, status)
    except Exception as error:
        print(describe(error, is_passing(error)), flush=True)


def dvc_parent(client: "MlflowClient", experiment: str) -> str | None:
    """Find the parent run of the `dvc` process above this one, made at its first stage; or None.

    DVC has no hook at the end of `dvc repro`: each stage leaves its own status on the parent, and a
    parent whose `dvc` was killed is closed when the next one begins.
    """
    import psutil

    for process in psutil.Process().parents():
        try:
            words = process.cmdline()[:3]
            if any(Path(word).name == "dvc" for word in words):
                experiment_name = os.environ.get("DVC_EXP_NAME")
                name = (
                    f"dvc exp {experiment_name}" if experiment_name else f"dvc repro {time.strftime('%Y-%m-%d %H:%M')}"
                )
                driver = ("driver", _address(process))
                return _open(client, experiment, name, key=driver, tags=dict([driver, ("kind", "pipeline")]))
        except psutil.Error:  # gone, or another user's
            continue
    return None


def origin_tags() -> dict[str, str]:
    """Tag who recorded this, from which commit, for which flow run."""
    tags = {"mlflow.user": getpass.getuser(), "mlflow.source.type": "LOCAL"}
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project_root(), capture_output=True, text=True, check=False
    )
    if answer.returncode == 0:
        tags["mlflow.source.git.commit"] = answer.stdout.strip()
    if flow_run := os.environ.get("MOCO_FLOW_RUN"):
        tags["flow_run"] = flow_run
    return tags


def _open(client: "MlflowClient", experiment: str, name: str, key: tuple[str, str], tags: dict[str, str]) -> str:
    # Of this kind alone: the stages' runs, and those of a study, carry a flow_run tag as well.
    kind = f"tags.kind = '{tags['kind']}'"
    found = client.search_runs([experiment], f"{kind} and tags.{key[0]} = '{key[1]}'", max_results=1)
    if found:
        run_id: str = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        for tag, value in tags.items():  # the driver is another process now
            client.set_tag(run_id, tag, value)
        return run_id
    running = f"{kind} and attributes.status = 'RUNNING' and tags.driver LIKE '{socket.gethostname()}:%'"
    for run in client.search_runs([experiment], running):
        if not _is_alive(run.data.tags["driver"]):
            _close(client, experiment, run.info.run_id, "KILLED")
    origin = {**origin_tags(), "mlflow.source.name": name}
    run_id = client.create_run(experiment, run_name=name, tags={**origin, **tags, key[0]: key[1]}).info.run_id
    print(f"tracking: {where_to_look(experiment, run_id)}", flush=True)
    return run_id


def _close(client: "MlflowClient", experiment: str, run_id: str, status: str) -> None:
    children = f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'RUNNING'"
    for child in client.search_runs([experiment], children):
        client.set_terminated(child.info.run_id, "KILLED")
    client.set_terminated(run_id, status)


def _address(process: "psutil.Process") -> str:
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.1f}"


def _is_alive(address: str) -> bool:
    import psutil

    _, pid, created = address.rsplit(":", 2)
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) < 1
    except psutil.Error:
        return False
