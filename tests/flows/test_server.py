import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings
from small_pipeline import Pipeline, processes_with, wait_until

from flows.children import UNRECORDED
from flows.running import LEAVE_SECONDS
from flows.server import served
from moco.errors import MocoError
from pipelines import STOPPED


def test_a_server_that_is_gone_is_one_line_that_says_how_to_do_without() -> None:
    gone = temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"})
    line = r"127\.0\.0\.1:9/api: no Prefect server answers.*unset PREFECT_API_URL"
    with gone, pytest.raises(MocoError, match=line), served():
        pass


class Closed(BaseHTTPRequestHandler):
    """A server that refuses everyone, as Prefect's with another password does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.endswith("/health") else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_the_password_is_one_line() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api", PREFECT_API_AUTH_STRING: "geheim"}
        with (
            temporary_settings(settings),
            pytest.raises(MocoError, match="set PREFECT_API_AUTH_STRING") as raised,
            served(),
        ):
            pass
        server.shutdown()
    assert "geheim" not in str(raised.value)


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    alone = temporary_settings(updates={PREFECT_HOME: tmp_path / "home"}, restore_defaults={PREFECT_API_URL})
    line = rf"{tmp_path}/home: Prefect keeps its database there, and {tmp_path} cannot be written; set PREFECT_HOME"
    with alone, pytest.raises(MocoError, match=line), served():
        pass


STARTING = "starting a temporary Prefect server\n"
WITHIN = 15.0  # seconds: three times what a free machine needs at most


def start(pipeline: Pipeline, module: str) -> subprocess.Popen[bytes]:
    """Start a flow as a shell does: in a process group that Ctrl-C reaches as a whole."""
    with (pipeline.folder / "runs/flow.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=pipeline.folder,
            env=pipeline.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def said(pipeline: Pipeline) -> str:
    return (pipeline.folder / "runs/flow.log").read_text()


@pytest.mark.parametrize(
    ("module", "before", "seconds"),
    [
        ("flows.pretrain_and_evaluate", "", 0.5),
        ("flows.pretrain_and_evaluate", STARTING, 1.0),
        ("flows.transfer", STARTING, 1.0),
        ("flows.study", STARTING, 1.0),
    ],
)
def test_ctrl_c_while_a_flow_starts_is_one_line_and_leaves_nothing(
    alone: Pipeline, module: str, before: str, seconds: float
) -> None:
    flow = start(alone, module)
    wait_until(lambda: before in said(alone), 60, "the flow starts")
    time.sleep(seconds)
    begin = time.monotonic()
    os.killpg(flow.pid, signal.SIGINT)
    flow.wait(WITHIN)
    wait_until(lambda: not processes_with(str(alone.folder)), WITHIN, "all processes end")
    assert time.monotonic() - begin < WITHIN
    assert flow.returncode != 0
    assert said(alone) == f"{before}{STOPPED}\n"


@pytest.mark.parametrize("running", [False, True])
def test_a_temporary_server_ends_with_a_flow_that_is_killed(alone: Pipeline, running: bool) -> None:
    alone.change("pretrain", cmd="""python -c "import time; print('it runs', flush=True); time.sleep(120)" """)
    flow = start(alone, "flows.pretrain_and_evaluate")

    def servers() -> list[str]:
        return [command for command in processes_with(str(alone.folder)) if "flows.temporary_server" in command]

    wait_until(lambda: ("it runs" if running else STARTING) in said(alone) and servers(), 180, "the flow starts")
    flow.kill()
    flow.wait()
    wait_until(lambda: not servers(), 15, "the server ends")
    assert "Traceback" not in said(alone)


def test_ctrl_c_ends_a_flow_whose_server_is_gone(alone: Pipeline) -> None:
    alone.change("pretrain", cmd="""python -c "import time; print('it runs', flush=True); time.sleep(120)" """)
    flow = start(alone, "flows.pretrain_and_evaluate")
    wait_until(lambda: "it runs" in said(alone), 180, "the flow starts")
    for child in psutil.Process(flow.pid).children():
        if "flows.temporary_server" in child.cmdline():
            child.kill()
    os.killpg(flow.pid, signal.SIGINT)
    assert flow.wait(LEAVE_SECONDS + WITHIN) == 130
    assert said(alone).endswith(f"{UNRECORDED}\n")
    wait_until(lambda: not processes_with(str(alone.folder)), WITHIN, "all processes end")
