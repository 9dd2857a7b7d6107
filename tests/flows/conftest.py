"""The small pipeline of these tests, with and without a Prefect server."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_pipeline import Pipeline, free_port, make_pipeline, wait_until


@pytest.fixture(scope="session")
def plain_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Keep the person's settings out: no Prefect server, no MLflow, a git identity of its own."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MOCO_", "GIT_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(home / "prefect"),
        "MOCO_TRACKING": "off",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "A Person",
        "GIT_AUTHOR_EMAIL": "person@localhost",
        "GIT_COMMITTER_NAME": "A Person",
        "GIT_COMMITTER_EMAIL": "person@localhost",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def alone(tmp_path: Path, plain_env: dict[str, str]) -> Pipeline:
    """The small pipeline, without a Prefect server."""
    return make_pipeline(tmp_path / "project", plain_env)


@pytest.fixture(scope="session")
def server_env(tmp_path_factory: pytest.TempPathFactory, plain_env: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment that points at a running Prefect server."""
    home = tmp_path_factory.mktemp("server")
    url = f"http://127.0.0.1:{free_port()}/api"
    env = plain_env | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    log = home / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            ["prefect", "server", "start", "--port", url.split(":")[2].split("/")[0]],
            env=env | {"PREFECT_UI_API_URL": url},  # where its pages ask
            cwd=home,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_until(answers, 120, "the Prefect server starts")
        yield env | {"PREFECT_API_URL": url}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture
def served(tmp_path: Path, server_env: dict[str, str]) -> Pipeline:
    """The small pipeline, with a Prefect server."""
    return make_pipeline(tmp_path / "project", server_env)
