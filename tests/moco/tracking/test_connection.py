"""Why nothing is recorded, and what to do, in one line."""

import getpass
import os
import socket
import sqlite3
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from moco.tracking import connection, pipeline


def told():
    """What a stage would print; it is no passing trouble."""
    with pytest.raises(Exception) as raised:
        connection.connect()
    assert not connection.is_passing(raised.value)
    line = connection.describe(raised.value, False)
    assert "\n" not in line
    return line


def test_a_deleted_experiment_names_the_command_that_restores_it(tracked):
    client, experiment = tracked
    client.delete_experiment(experiment)
    assert f"`mlflow experiments restore --experiment-id {experiment}`" in told()


def test_a_database_of_another_mlflow_names_the_way_out(tracked, tmp_path, monkeypatch):
    other = tmp_path / "other.db"
    other.write_bytes((tmp_path / "mlflow.db").read_bytes())
    with closing(sqlite3.connect(other)) as database, database:
        database.execute("update alembic_version set version_num = 'acf3f17fdcc7'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    assert "`mlflow db upgrade sqlite:" in told()


def test_a_mistyped_address_names_the_kinds_there_are(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://here")
    assert "MLflow knows no such kind of address; set MLFLOW_TRACKING_URI to http://" in told()


def test_a_server_that_refuses_the_password_names_the_variables(monkeypatch):
    class Closed(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 401)
            self.end_headers()
            self.wfile.write(b"You are not authenticated.")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "runner")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
        line = told()
        server.shutdown()
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line
    assert "geheim" not in line


def test_a_server_that_accepts_and_never_answers_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        kept = []
        threading.Thread(target=lambda: kept.append(silent.accept()), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(TimeoutError) as raised:
            connection.connect()
        assert time.monotonic() - start < 5
    assert connection.is_passing(raised.value)


def test_a_user_without_a_name_or_a_home_is_a_number(monkeypatch):
    def nobody(*_):
        raise KeyError("getpwuid(): uid not found")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert pipeline.origin_tags()["mlflow.user"] == str(os.getuid())
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("HOME", raising=False)
    assert connection.import_mlflow() is mlflow
    assert Path(os.environ["HOME"]).is_dir()


def test_a_folder_whose_name_means_something_in_an_address_keeps_its_database(tmp_path, monkeypatch):
    folder = tmp_path / "100% ?#'\"; x"
    folder.mkdir()
    (folder / "dvc.yaml").touch()
    monkeypatch.chdir(folder)
    client, experiment = connection.connect()
    assert (folder / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "file.txt")
    assert [found.path for found in client.list_artifacts(run)] == ["file.txt"]


def test_a_database_that_no_address_can_name_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///what?.db")
    assert "MLflow cannot keep a database in 'what?.db'" in told()
