import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import mlflow
import pytest

from moco.tracking import connection


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch):
    """Other tests run with tracking off; these have their own settings and leave none behind."""
    names = ("MOCO_TRACKING", "MOCO_PIPELINE_RUN", "MOCO_FLOW_RUN", "DVC_ROOT", "RANK")
    for name in (*names, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow takes seconds to set a database up, so that the tests copy one."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def tracked(tmp_path, monkeypatch, empty_database):
    """A tracking database of the test's own; gives its client and experiment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MOCO_PIPELINE_RUN", "")
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return connection.connect()


class Server:
    """A real MLflow server that can be killed and started again."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process = None

    def start(self):
        store = f"sqlite:///{self.folder}/server.db"
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", store, "--artifacts-destination", f"{self.folder}/artifacts"]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nine processes that serve nothing here
        environment.pop("MLFLOW_TRACKING_URI", None)
        with open(f"{self.folder}/server.log", "a") as log:  # noqa: PTH123 - shorter than Path(...).open here
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2)
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self):
        if self.process:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def one_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(one_server, monkeypatch):
    """The server, up; a test may leave it killed."""
    if not one_server.process:
        one_server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", one_server.uri)
    monkeypatch.setenv("MOCO_PIPELINE_RUN", "")
    return one_server
