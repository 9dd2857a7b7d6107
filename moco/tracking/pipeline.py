"""The parent run: one for each run of the pipeline, whatever drives it."""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moco.files import file_sha256
from moco.tracking.connection import connect, enabled, project_root, tell, where_to_look

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
        tell(error, "the stages' runs of this pipeline have no parent run")
        return None


def page_of(run_id: str | None) -> str | None:
    """Give the address of a run's page; None where no server shows it, or there is no run."""
    if run_id is None or not enabled():
        return None
    try:
        _, experiment = connect()
        page = where_to_look(experiment, run_id)
    except Exception as error:
        tell(error, "the flow's page has no link to its run")
        return None
    return page if page.startswith("http") else None


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
        tell(error, "its figures are not in MLflow; the same command adds them once that is better")


def name_runs(name: str, run_id: str | None, weights: Path) -> None:
    """Give a version's name to a pipeline's run, its stages' runs and its registered encoder.

    Args:
        name: becomes the tag `version` of each, an alias of the model, and the first word of the
            pipeline run's name.
        run_id: what `start_pipeline_run` gave; None does nothing.
        weights: the encoder's file; a model of the same weights is the one, whichever run made it.
    """
    if run_id is None or not enabled():
        return
    try:
        client, experiment = connect()
        stages = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'")
        for run in (run_id, *(stage.info.run_id for stage in stages)):
            client.set_tag(run, "version", name)
        client.update_run(run_id, name=f"{name} {client.get_run(run_id).info.run_name}")
        if weights.exists():
            same = f"tags.weights = '{file_sha256(weights)}'"
            for model in client.search_model_versions(same):
                client.set_model_version_tag(model.name, model.version, "version", name)
                client.set_registered_model_alias(model.name, name, model.version)
    except Exception as error:
        tell(error, f"MLflow does not know the version {name}")


def end_pipeline_run(run_id: str | None, status: str) -> None:
    """Close a parent run, and its children that died without closing.

    One in which nothing ran, for everything was up to date, is no record of anything, and goes.

    Args:
        run_id: what `start_pipeline_run` gave; None does nothing.
        status: FINISHED, FAILED or KILLED.
    """
    if run_id is None or not enabled():
        return
    try:
        client, experiment = connect()
        _close(client, experiment, run_id, status)
        run = client.get_run(run_id)
        alone = run.data.tags.get("kind") == "pipeline" and PARENT not in run.data.tags
        children = f"tags.`{PARENT}` = '{run_id}'"
        if status == "FINISHED" and alone and not client.search_runs([experiment], children, max_results=1):
            client.delete_run(run_id)
    except Exception as error:
        tell(error, "its run counts as running until the next one begins")


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
    tags = {"mlflow.user": _user(), "mlflow.source.type": "LOCAL"}
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project_root(), capture_output=True, text=True, check=False
    )
    if answer.returncode == 0:
        tags["mlflow.source.git.commit"] = answer.stdout.strip()
    if flow_run := os.environ.get("MOCO_FLOW_RUN"):
        tags["flow_run"] = flow_run
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number alone
        return str(os.getuid())


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
    """Name a process of this host, the same whenever asked and however the clock is set."""
    try:
        ticks = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[19]
        started = f"{Path('/proc/sys/kernel/random/boot_id').read_text()[:8]}-{ticks}"
    except OSError:  # no Linux
        started = f"{process.create_time():.1f}"
    return f"{socket.gethostname()}:{process.pid}:{started}"


def _is_alive(address: str) -> bool:
    import psutil

    try:
        return _address(psutil.Process(int(address.rsplit(":", 2)[1]))) == address
    except psutil.Error:
        return False
