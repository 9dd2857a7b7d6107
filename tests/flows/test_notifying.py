"""Prefect says what becomes of runs, to an address that nobody sees."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed, Running
from pydantic import SecretStr
from small_pipeline import wait_until

from flows import notifying

PASSWORD = "geheim-9271"


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that takes notifications, and what came there."""
    received: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"json://me:{PASSWORD}@127.0.0.1:{server.server_port}/", received
    server.shutdown()


@flow(name="a-night")
def night() -> None: ...


@pytest.mark.slow
def test_a_failed_run_and_a_day_without_success_are_said_once_and_a_switch_of_a_person_stays(
    server_env: dict[str, str], heard: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, (address, received) = server_env["PREFECT_API_URL"], heard
    automations = yaml.safe_load(notifying.AUTOMATIONS.read_text())
    automations["automations"][1]["trigger"]["within"] = 10  # seconds, the least that Prefect takes
    (tmp_path / "notify.yaml").write_text(yaml.safe_dump(automations))
    for _ in range(2):  # as two calls of `moco up`
        notifying.register(url, SecretStr(address), tmp_path / "notify.yaml")
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        run = client.create_flow_run(night, name="brave-owl", state=Running())
        client.set_flow_run_state(run.id, Failed(message="linear: no such class"))
        wait_until(lambda: len({one["title"] for one in received}) == 2, 60, "both are said")
        messages = {one["title"]: one["message"] for one in received}
        said = messages["Failed: a-night, brave-owl"]
        assert said.startswith("linear: no such class")
        assert "26 hours" in messages["No run succeeded for a day"]
        assert sum(one["title"].startswith("Failed") for one in received) == 1

        (silence,) = client.read_automations_by_name("no run succeeded for a day")
        client.pause_automation(silence.id)
        notifying.register(url, SecretStr(address), tmp_path / "notify.yaml")
        (again,) = client.read_automations_by_name("no run succeeded for a day")
        assert (again.id, again.enabled) == (silence.id, False)
        documents = client.request("POST", "/block_documents/filter", json={}).text
    assert "moco-notify" in documents
    kept = b"".join(path.read_bytes() for path in Path(server_env["PREFECT_HOME"]).rglob("*") if path.is_file())
    assert PASSWORD not in documents
    assert PASSWORD.encode() not in kept  # neither database nor log
