"""`moco up`: both servers, a worker, and what Prefect is told, made once; nothing is left of it."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import Pipeline, free_port, processes_with, wait_until

from flows import services, up


def ask(url: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=10))


class Up:
    """A `moco up` that runs."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.ports = free_port(), free_port()
        self.api = f"http://127.0.0.1:{self.ports[0]}/api"
        self.log = pipeline.folder / "runs/up.log"
        self.pipeline = pipeline

    def start(self) -> None:
        options = "--prefect-port", str(self.ports[0]), "--mlflow-port", str(self.ports[1])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("moco"), "up", *options],
                cwd=self.pipeline.folder,
                env=self.pipeline.env | {"PWD": "/"},  # as where nobody set it
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        wait_until(lambda: self.process.poll() is not None or "Ctrl-C ends" in self.log.read_text(), 300, "it is up")
        assert self.process.poll() is None, self.log.read_text()

    def interrupt(self) -> float:
        begin = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 130
        return time.monotonic() - begin


@pytest.mark.slow
def test_it_comes_up_makes_each_thing_once_and_leaves_nothing(alone: Pipeline) -> None:
    servers = Up(alone)
    servers.start()
    said = servers.log.read_text()
    for port in servers.ports:
        assert f"http://127.0.0.1:{port}" in said
    made = {one["name"] for one in ask(servers.api, "deployments/filter")}
    assert made == {"ingest", "pretrain-and-evaluate", "transfer", "study", "nightly"}
    assert urllib.request.urlopen(f"http://127.0.0.1:{servers.ports[1]}/health", timeout=10).status == 200
    again = alone.run(sys.executable, "-m", "flows.up", check=False)
    assert again.returncode == 1
    assert "another process has brought the servers up (process" in again.stderr

    # A run that is under way ends with it.
    alone.change("pretrain", cmd="""python -c "import time; print('on', flush=True); time.sleep(118)" """)
    alone.env["PREFECT_API_URL"] = servers.api
    alone.run("prefect", "deployment", "run", "pretrain-and-evaluate/pretrain-and-evaluate")
    wait_until(lambda: any("time.sleep(118)" in one for one in processes_with(str(alone.folder))), 120, "it runs")
    assert servers.interrupt() < 10
    assert processes_with(str(alone.folder)) == []

    deployed = (alone.folder / "servers/deploy.log").stat().st_mtime_ns
    servers.start()
    assert (alone.folder / "servers/deploy.log").stat().st_mtime_ns == deployed
    automations = [one["name"] for one in ask(servers.api, "automations/filter")]
    assert len(automations) == len(set(automations))
    servers.process.kill()
    servers.process.wait()
    assert services.end_left_over(alone.folder / "servers" / up.LIST)  # as the next one does
    assert processes_with(str(alone.folder)) == []


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        up.main(arguments)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prefect.yaml").write_text(Path("prefect.yaml").read_text())
    (tmp_path / "flows").symlink_to(Path("flows").absolute())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_port_that_is_taken_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        said = said_by(capsys, "--mlflow-port", str(port), "--prefect-port", str(free_port()))
    assert f"port {port} of 127.0.0.1" in said
    assert "pass another --mlflow-port" in said


@pytest.mark.parametrize(
    ("database", "told"),
    [
        ("mysql://moco@127.0.0.1/moco", "give it as in postgresql://"),
        ("postgresql://moco@127.0.0.1", "give it as in postgresql://"),
        ("postgresql://moco:geheim@127.0.0.1/moco", "PGPASSWORD"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], database: str, told: str
) -> None:
    said = said_by(capsys, "--database", database)
    assert told in said
    assert "geheim" not in said


def test_another_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no prefect.yaml is here" in said_by(capsys)
