"""One flow run at a time works in a project, whichever command started it.

test_deployment.py has the same for deployments.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_pipeline import Pipeline, wait_until

from moco.locks import exclusive


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("-m", "flows.pretrain_and_evaluate"),
        ("-m", "flows.transfer"),
        ("-m", "flows.study"),
        ("-c", "from flows.ingest import ingest; ingest(['new'])"),
    ],
)
def test_every_flow_waits_for_another_and_may_be_stopped_while_it_does(
    served: Pipeline, tmp_path: Path, command: tuple[str, str]
) -> None:
    log = tmp_path / "log"
    with exclusive(served.folder / "runs/flow.lock", served.folder, 0, who="flow run brave-owl of nightly"):
        with log.open("wb") as file:
            run = subprocess.Popen(
                [sys.executable, *command],
                cwd=served.folder,
                env=served.env,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        wait_until(lambda: "(flow run brave-owl of nightly, process " in log.read_text(), 120, "it waits")
        run.send_signal(signal.SIGINT)
        assert run.wait(30) != 0
    assert "Running stage" not in log.read_text()
