"""Where runs are recorded, and how to reach it without harm to a stage."""

import importlib.util
import logging
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.errors import MocoError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's own 120 with 7 retries block for many minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow's settings, made before it is imported unless the person has set them."""

SQLITE = "sqlite:///"


def enabled() -> bool:
    """Tell whether this process records anything.

    Raises:
        MocoError: MOCO_TRACKING is neither on nor off.
    """
    switch = os.environ.get("MOCO_TRACKING", "on")
    if switch not in ("on", "off"):
        raise MocoError(f"environment MOCO_TRACKING={switch!r} is neither on nor off; set it to one of them")
    installed = all(importlib.util.find_spec(name) for name in ("mlflow", "psutil"))
    return switch == "on" and installed and os.environ.get("RANK", "0") == "0"


def project_root() -> Path:
    """Find the folder of dvc.yaml: DVC's (in experiments, the workspace), or one above here."""
    told = os.environ.get("DVC_ROOT")
    here = Path(told).resolve() if told else Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()), here)


def tracking_uri() -> str:
    """Say where runs are recorded; with an absolute path if that is a SQLite file."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{project_root() / 'mlflow.db'}"
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def import_mlflow() -> Any:
    """Import MLflow with short time-outs, without telemetry and without its progress notes."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def connect() -> "tuple[MlflowClient, str]":
    """Give a client and the id of the experiment, which the first call makes.

    A fresh SQLite database is set up under a file lock, because MLflow's set-up fails when two
    processes begin it together.
    """
    mlflow = import_mlflow()
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "moco"
    location = (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None
    with database_lock():
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return client, client.create_experiment(name, artifact_location=location)
            except mlflow.exceptions.MlflowException:
                experiment = client.get_experiment_by_name(name)  # another process was faster
                if experiment is None:
                    raise
        return client, experiment.experiment_id


def database_lock() -> AbstractContextManager[Any]:
    """Let one process at a time use a SQLite database; a server needs no such lock."""
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        return nullcontext()
    from filelock import FileLock

    return FileLock(uri.removeprefix(SQLITE) + ".lock", timeout=120)


def is_passing(error: Exception) -> bool:
    """Tell whether an error may pass: no connection, time-out, a server in trouble."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status: int | None = error.get_http_status_code()
    else:
        status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in ("ConnectionError", "Timeout")


def describe(error: Exception, passing: bool) -> str:
    """Describe an error in one line for the person who watches the stage."""
    uri = public_uri()
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__  # type: ignore[assignment]
    text = " ".join(str(root).split())[:160] or type(root).__name__
    if passing:
        return f"tracking: {uri} is out of reach ({text}); the stage continues; records are sent if it comes back"
    return f"tracking: {uri} refused a record ({text}); the stage continues without it"


def where_to_look(experiment: str, run_id: str) -> str:
    """Name the page of a run, or for a database the command that shows it."""
    uri = public_uri()
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    return f"run {run_id}; to see it: DO_NOT_TRACK=true mlflow ui --backend-store-uri {uri}"


def public_uri() -> str:
    """Say where runs are recorded, without a password."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri())
