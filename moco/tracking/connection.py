"""Where runs are recorded, and how to reach it without harm to a stage."""

import importlib.util
import logging
import os
import re
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.errors import MocoError
from moco.text import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's own 120 with 7 retries block for many minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # MLflow prints the address with its password
}
"""MLflow's settings, made before it is imported unless the person has set them."""

SQLITE = "sqlite:///"
_ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
_ODD = re.compile(r"[?#%]")
ANSWER_SECONDS = 5.0
"""Longest wait for a server's sign of life. MLflow's own calls wait longer, for slow answers."""
PATIENT_SECONDS = 30.0
"""The same where nothing waits meanwhile."""


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
    uri = os.environ.get("MLFLOW_TRACKING_URI") or local_uri()
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def local_uri() -> str:
    """Say where runs are recorded if nothing else is set: beside dvc.yaml."""
    return f"{SQLITE}{project_root() / 'mlflow.db'}"


def _understood(uri: str) -> str:
    """Give an address that MLflow takes to the same file.

    A folder whose name means something in an address is left out of it: MLflow makes folders of
    the name as it is written, quoted or not.

    Raises:
        MocoError: the path is odd from here too.
    """
    path = uri.removeprefix(SQLITE)
    if uri.startswith(SQLITE) and _ODD.search(path):
        path = os.path.relpath(path)
        if _ODD.search(path):
            raise MocoError(
                f"MLFLOW_TRACKING_URI: MLflow cannot keep a database in {path!r}, for ?, # and % mean something in its"
                " address; set MLFLOW_TRACKING_URI to sqlite:///FILE in another folder"
            )
        return f"{SQLITE}{path}"
    return uri


def import_mlflow() -> Any:
    """Import MLflow with short time-outs, without telemetry and without its progress notes."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor an entry for the user, as in containers; MLflow asks for it
        os.environ["HOME"] = tempfile.gettempdir()
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def connect(patient: bool = False) -> "tuple[MlflowClient, str]":
    """Give a client and the id of the experiment, which the first call makes.

    A fresh SQLite database is set up under a file lock, because MLflow's set-up fails when two
    processes begin it together.

    Args:
        patient: whether a server may take `PATIENT_SECONDS` for its sign of life.

    Raises:
        MocoError: nothing can be recorded there until the reader changes something.
        OSError: no server answers.
    """
    mlflow = import_mlflow()
    uri = _understood(tracking_uri())
    _require_answer(uri, PATIENT_SECONDS if patient else ANSWER_SECONDS)
    mlflow.set_tracking_uri(uri)
    name = experiment_name()
    with database_lock():
        client = _client(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return client, client.create_experiment(name, artifact_location=_artifacts_of(uri))
            except mlflow.exceptions.MlflowException:
                experiment = client.get_experiment_by_name(name)  # another process was faster
                if experiment is None:
                    raise
    _require_active(experiment)
    return client, experiment.experiment_id


def _client(uri: str) -> "MlflowClient":
    """Make a client, and a database's first content.

    MLflow pastes the place of its artifacts into SQL: as an address it holds no quote.
    """
    mlflow = import_mlflow()
    location = _artifacts_of(uri)
    if location is None or _ARTIFACT_ROOT in os.environ:
        return mlflow.MlflowClient(uri)
    os.environ[_ARTIFACT_ROOT] = location
    try:
        return mlflow.MlflowClient(uri)
    finally:
        del os.environ[_ARTIFACT_ROOT]


def _artifacts_of(uri: str) -> str | None:
    """Give the address of the artifacts beside a database's file; None for a server."""
    return (
        (Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None
    )


def look() -> None:
    """See that runs can be recorded, without making anything; errors as of `connect`."""
    uri = _understood(tracking_uri())
    _require_answer(uri, ANSWER_SECONDS)
    experiment = _client(uri).get_experiment_by_name(experiment_name())
    if experiment is not None:
        _require_active(experiment)


def experiment_name() -> str:
    """Name the experiment of all runs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "moco"


def _require_active(experiment: Any) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise MocoError(
            f"the experiment {experiment.name!r} is deleted; restore it (`mlflow experiments restore --experiment-id"
            f" {experiment.experiment_id}`), or set MLFLOW_EXPERIMENT_NAME to another"
        )


def _require_answer(uri: str, seconds: float) -> None:
    """See that a server is there: MLflow's own first call waits a minute for one that is silent."""
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:  # any answer will do
        requests.get(f"{uri.rstrip('/')}/health", timeout=seconds)
    except requests.Timeout:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    except requests.exceptions.SSLError:  # somebody answers; MLflow has settings for certificates
        pass


def database_lock() -> AbstractContextManager[Any]:
    """Let one process at a time use a SQLite database; a server needs no such lock."""
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        return nullcontext()
    from filelock import FileLock

    return FileLock(uri.removeprefix(SQLITE) + ".lock", timeout=120)


def is_passing(error: Exception) -> bool:
    """Tell whether an error may pass: no connection, time-out, a server in trouble."""
    if isinstance(error, MocoError) or _remedy(error):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in ("ConnectionError", "Timeout")


def _status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return getattr(getattr(error, "response", None), "status_code", None)


def describe(error: Exception, passing: bool, lost: str | None = None) -> str:
    """Describe an error in one line for the person who watches the stage.

    Args:
        error: what MLflow raised.
        passing: whether it may pass.
        lost: what is missing and how to record it; None: the stage's sender tries again, and says
            in the end what is missing.
    """
    if isinstance(error, MocoError):
        return f"tracking: nothing of this run is recorded: {error}"
    uri = public_uri()
    if remedy := _remedy(error):
        return f"tracking: {uri}: nothing of this run is recorded: {remedy}"
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__  # type: ignore[assignment]
    text = without_password(" ".join(str(root).split()))[:160] or type(root).__name__
    if passing:
        return f"tracking: {uri} is out of reach ({text}); {lost or 'the stage continues; records are sent if it comes back'}"
    return f"tracking: {uri} refused a record ({text}); {lost or 'the stage continues without it'}"


def tell(error: Exception, lost: str) -> None:
    """Print what `describe` gives of a call that nobody makes again."""
    print(describe(error, is_passing(error), lost), flush=True)


def again(stage: str) -> str:
    """Say how a stage's record is made once the server is back."""
    return f"`dvc repro --force --single-item {stage}` records it once that is better"


def _remedy(error: Exception) -> str | None:
    """Say what is wrong for good, and what to do about it; None: that is not known."""
    text = str(error)
    if _status(error) == 401:
        return "the server refuses user or password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what it knows"
    if "db upgrade" in text:
        return (
            "its database is of another version of MLflow; if of an older one, copy it and run `mlflow db upgrade"
            f" {public_uri()}`, else install that version or set MLFLOW_TRACKING_URI to another database"
        )
    if "readonly database" in text or "unable to open database file" in text:
        return "the file cannot be written; give yourself the permission, or set MLFLOW_TRACKING_URI to another"
    if "database or disk is full" in text:
        return "the disk is full; free some space"
    if type(error).__name__.startswith("Unsupported"):
        return (
            "MLflow knows no such kind of address; set MLFLOW_TRACKING_URI to http://HOST:PORT, sqlite:///FILE or"
            " postgresql://…"
        )
    return None


def where_to_look(experiment: str, run_id: str) -> str:
    """Name the page of a run, or for a database the command that shows it."""
    uri = public_uri()
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    return f"run {run_id}; to see it: DO_NOT_TRACK=true mlflow ui --backend-store-uri {uri}"


def public_uri() -> str:
    """Say where runs are recorded, without a password."""
    return without_password(tracking_uri())
