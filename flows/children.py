"""Child processes that never outlive the flow, and their output line by line."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from moco.errors import Interrupted

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL a stage saves its state: 400 MB at 20 MB/s. Prefect itself kills a
flow that takes longer than 30 s to leave."""

UNRECORDED = "Prefect does not answer: the end of this run is not in its record"
PROGRESS = re.compile(r"^(?P<stage>\S+)  (?P<percent>\d{1,3})% · (?P<note>.*)$")
"""A progress line, as moco.progress prints it."""

TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_stop = threading.Event()
_children: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()  # a child is either refused or registered: none starts behind stop_all's back


@dataclass(frozen=True)
class Result:
    """How a child ended.

    Attributes:
        code: exit code; negative: the signal that ended it.
        error: the text of its last `error: …` line, the way a stage tells its reader what to
            correct; or None.
        tail: its last lines.
    """

    code: int
    error: str | None
    tail: tuple[str, ...]


def run(command: Sequence[str], folder: Path, env: Mapping[str, str], on_line: Callable[[str], None]) -> Result:
    """Run a command in its own session until it ends, handing over every line as it comes.

    Args:
        command: program and arguments.
        folder: the child's working directory.
        env: the child's whole environment.
        on_line: called with each line of stdout and stderr, without its end; a carriage return ends
            one too.

    Raises:
        Interrupted: `stop_all` was called before or while the child ran.
    """
    tail: list[str] = []
    error = None
    child = _start(command, folder, env)
    try:
        assert child.stdout is not None
        for raw in child.stdout:  # text mode: \r and \r\n count as line ends
            line = TERMINAL_CODES.sub("", raw).rstrip()
            if not line:
                continue
            if line.startswith("error: "):
                error = line.removeprefix("error: ")
            tail = [*tail[-9:], line]
            on_line(line)
        code = child.wait()
    finally:
        _kill([child], grace=0.0)  # on every way out: what the child itself left running goes with it
        with _lock:
            _children.discard(child)
    if stopping():
        raise Interrupted(f"stopped: {' '.join(command)}; the same command resumes")
    return Result(code, error, tuple(tail))


def reset() -> None:
    """Allow children again: a flow run begins."""
    _stop.clear()


def stopping() -> bool:
    """Whether `stop_all` was called since `reset`."""
    return _stop.is_set()


def leave_after(seconds: float) -> None:
    """End this process in some seconds: Prefect asks a server that is gone for minutes."""
    timer = threading.Timer(seconds, _leave)
    timer.daemon = True
    timer.start()


def _leave() -> None:
    print(UNRECORDED, file=sys.stderr, flush=True)
    os._exit(Interrupted.exit_code)


def stop_all(grace: float = GRACE_SECONDS) -> None:
    """Refuse new children and end all running ones with their descendants.

    Args:
        grace: seconds between SIGTERM and SIGKILL.
    """
    with _lock:
        _stop.set()
        children = list(_children)
    _kill(children, grace)


def _start(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
    with _lock:
        if stopping():
            raise Interrupted(f"not started: {' '.join(command)}; the run was stopped")
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a group of its own: one signal reaches dvc, the stage and its workers
        )
        _children.add(child)
        return child


def _kill(children: Sequence[subprocess.Popen[str]], grace: float) -> None:
    groups = [child.pid for child in children]  # a group has its leader's number, taken while one member lives
    try:
        if grace > 0:
            alive = [group for group in groups if _signal(group, signal.SIGTERM)]
            deadline = time.monotonic() + grace
            while alive and time.monotonic() < deadline:
                time.sleep(0.05)
                for child in children:
                    child.poll()  # reaps the leader, else its group looks alive
                alive = [group for group in alive if _lives(group)]
    finally:  # a second Ctrl-C shortens the grace, not the promise
        for group in groups:
            _signal(group, signal.SIGKILL)


def _lives(group: int) -> bool:
    """Whether one of a group still runs: in many containers nothing reaps those that ended."""
    if not _signal(group, 0):
        return False
    for pid in psutil.pids():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # gone; macOS says "not permitted" of a group of zombies
        return False
    return True
