"""Processes of `moco up`: started apart from the terminal, and ended with all that they started."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from moco.errors import MocoError
from moco.files import read_note, write_json
from moco.text import without_password

SECONDS_FOR_RUNS = 5.0
"""Between the signal to a worker and its runs, which save a checkpoint, and their end by force."""
SECONDS_FOR_SERVERS = 2.5
"""Between the signal to a server and its end by force: a database's changes are transactions."""
START_SECONDS = 180.0

KNOWN = {
    "Detected out-of-date database schema": "its database is of another version of MLflow; of an older one, back it up"
    " and run `mlflow db upgrade ADDRESS`, of a newer one, install that version",
    "Can't locate revision identified by": "its database is of a newer version; install that one, or name another"
    " database",
}
"""What a log says -> what that means, and the remedy. Prefect brings an older database to its own
version by itself."""


@dataclass(frozen=True)
class Service:
    """A program that runs until it is ended.

    Attributes:
        name: what a person calls it.
        process: the program; its session is its own.
        log: what it prints.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def start(name: str, command: Sequence[str], env: Mapping[str, str], folder: Path) -> Service:
    """Start a program of this environment's packages, its lines in `folder`/NAME.log."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal reaches `moco up` alone, which ends them in order
        )
    return Service(name, process, log)


def require_free(host: str, port: int, option: str) -> None:
    """See that nobody listens on a port.

    Raises:
        MocoError: somebody does, or the address is none of this machine.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        taken = f"port {port} of {host}: {error.strerror or error}"
        raise MocoError(f"{taken}; end the program that holds it, or pass another {option}") from None


def wait_for_answer(service: Service, url: str) -> None:
    """Wait until a server says that it is well.

    Raises:
        MocoError: it ended, or took too long; with the last line that it printed.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        require_alive([service])
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        if time.monotonic() > deadline:
            raise MocoError(f"{service.name} gave no answer in {START_SECONDS:g} s; {service.log} has what it printed")
        time.sleep(0.1)


def require_alive(services: Sequence[Service]) -> None:
    """See that every program still runs.

    Raises:
        MocoError: one ended; with the last line that it printed.
    """
    for service in services:
        if (code := service.process.poll()) is not None:
            text = service.log.read_text(errors="replace").strip()
            known = next((said for mark, said in KNOWN.items() if mark in text), None)
            last = known or without_password(text.splitlines()[-1].strip()[:300] if text else "it printed nothing")
            raise MocoError(f"{service.name} ended (exit code {code}): {last}; more: {service.log}")


def end(workers: Sequence[Service], servers: Sequence[Service]) -> None:
    """End all programs with everything that they started: workers and their runs before servers.

    So that a run that is stopped can still say so.
    """
    for services, seconds in ((workers, SECONDS_FOR_RUNS), (servers, SECONDS_FOR_SERVERS)):
        _end([family for service in services for family in _family(service.process.pid)], seconds)
        for service in services:
            service.process.wait()


def keep_list(services: Sequence[Service], path: Path) -> None:
    """Write down which processes run, for the next `moco up` if this one is killed."""
    write_json(path, {str(one.process.pid): psutil.Process(one.process.pid).create_time() for one in services})


def end_left_over(path: Path) -> bool:
    """End what a killed `moco up` left running, and say whether there was any."""
    left = []
    for pid, begin in read_note(path).items():
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            if psutil.Process(int(pid)).create_time() == begin:  # the number may be another program's by now
                left += _family(int(pid))
    _end(left, SECONDS_FOR_RUNS)
    path.unlink(missing_ok=True)
    return bool(left)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(processes: Sequence[psutil.Process], seconds: float) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        for one in _family(process.pid):  # what it started since
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    psutil.wait_procs(alive, timeout=seconds)


def address(host: str, port: int) -> str:
    """Give the address by which programs of this machine reach a server that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
