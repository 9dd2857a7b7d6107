"""The Prefect server that a flow's run is recorded on."""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_UI_URL,
    get_current_settings,
    temporary_settings,
)

from moco.errors import MocoError
from moco.text import without_password

WAIT_SECONDS = 2.0
"""For a temporary server's end: most take half a second, and each ends by itself."""
_running = threading.Event()


def of_this_process() -> bool:
    """Whether this process was started for a flow, and is not a program that calls one."""
    return _running.is_set()


@contextlib.contextmanager
def served() -> Iterator[None]:
    """See that there is a server: that of the settings, or one that ends with this process.

    Prefect itself waits a minute for one that is gone, and ends in a traceback.

    Raises:
        MocoError: nothing answers.
    """
    _running.set()
    url = get_current_settings().api.url
    if not url:
        # It shows no pages, and nothing watches for heartbeats, whose thread takes a second to end.
        settings = {PREFECT_API_URL: _start(), PREFECT_UI_URL: "", PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings):
            yield
        return
    try:
        # Any answer will do, of any certificate: nothing is sent that is secret.
        httpx.get(f"{url.rstrip('/')}/health", timeout=10, verify=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MocoError(
            f"PREFECT_API_URL = {without_password(url)}: no Prefect server answers there ({type(error).__name__}); start it (`prefect server"
            " start`), or do without: `unset PREFECT_API_URL` in the shell, `prefect config unset PREFECT_API_URL` in a profile"
        ) from None
    _require_accepted(url)
    yield


def _require_accepted(url: str) -> None:
    """See that the server takes what this process calls it with.

    Raises:
        MocoError: it does not.
    """
    try:
        get_client(sync_client=True).api_version()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise MocoError(
                f"PREFECT_API_URL = {without_password(url)}: the server refuses this user; set PREFECT_API_AUTH_STRING to what"
                " its PREFECT_SERVER_API_AUTH_STRING is"
            ) from None
    except httpx.HTTPError:  # Prefect says so itself, with the name of the setting
        return


def _start() -> str:
    """Start a server for this process alone, and give its address once it answers.

    Raises:
        MocoError: it ended, or took too long.
    """
    settings = get_current_settings()
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    database = settings.server.database.connection_url
    within = database is None or str(settings.home) in database.get_secret_value()
    if within and not os.access(place, os.W_OK):
        raise MocoError(
            f"{settings.home}: Prefect keeps its database there, and {place} cannot be written; set PREFECT_HOME to another"
            " folder"
        )
    seconds = settings.server.ephemeral.startup_timeout_seconds
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        print("starting a temporary Prefect server", file=sys.stderr, flush=True)
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.temporary_server", str(listening.fileno())],
            # its settings, among them those of this folder's files
            env={**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)},
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
    try:
        # The socket listens already: the answer comes once the server is up, an error if it ends.
        httpx.get(f"{url}/health", timeout=seconds, trust_env=False).raise_for_status()
    except BaseException as error:
        server.kill()  # it has nothing to save, and each change of its database is a transaction
        server.wait()
        if not isinstance(error, httpx.HTTPError):
            raise
        raise MocoError(
            f"the temporary Prefect server did not start ({type(error).__name__}); run again, start one that stays"
            " (`prefect server start`) and set PREFECT_API_URL, or raise PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
            f" (now {seconds})"
        ) from None
    atexit.register(_stop, server)  # after what Prefect still sends as this process ends
    return url


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):  # it ends all the same
        server.wait(WAIT_SECONDS)
