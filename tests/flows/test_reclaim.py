"""A run that is declared dead while it lives is Running again, and ends as what it is."""

import time

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from flows import reclaim


@pytest.mark.parametrize("seconds", [0.2, 60.0])  # seen by a look; only at the end
def test_a_run_that_lives_is_no_longer_crashed(
    server_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(reclaim, "SECONDS", seconds)
    between = []

    @flow
    def trains() -> str:
        with reclaim.reclaimed(), get_client(sync_client=True) as client:
            run = flow_run.get_id()
            client.set_flow_run_state(run, Crashed(message="no sign of life"), force=True)
            deadline = time.monotonic() + (30 if seconds < 1 else 1)
            while client.read_flow_run(run).state.is_crashed() and time.monotonic() < deadline:
                time.sleep(0.1)
            between.append(client.read_flow_run(run).state.name)
        return str(run)

    with temporary_settings({PREFECT_API_URL: server_env["PREFECT_API_URL"]}):
        run = trains()
        with get_client(sync_client=True) as client:
            assert client.read_flow_run(run).state.name == "Completed"
    assert between == ["Running" if seconds < 1 else "Crashed"]
