"""What drives this stage: a flow or `dvc`. A stage whose driver was killed ends, and saves first.

Else it would continue unseen, and hold the run that its driver's successor wants.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from moco.errors import Interrupted

DRIVER = "MOCO_DRIVER"
"""The flow's process id, in the environment of its stages."""
SECONDS = 1.0
_elsewhere = threading.Event()


@contextmanager
def work_elsewhere() -> Iterator[None]:
    """While a Slurm job or the like works: it continues without this stage.

    When its driver is gone, the stage then ends at once, and the next run follows the job.
    """
    _elsewhere.set()
    try:
        yield
    finally:
        _elsewhere.clear()


@contextmanager
def ends_with_driver() -> Iterator[None]:
    """Have SIGTERM come to this process when its driver is gone; nothing if nobody drives it."""
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(ended,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()


def _watch(ended: threading.Event) -> None:
    try:
        import psutil
    except ImportError:  # an installation for GPU nodes, where nothing drives a stage
        return
    drivers = []
    try:
        parents = psutil.Process().parents()
    except psutil.Error:  # one has just gone
        return
    for process in parents:
        with suppress(psutil.Error):  # another user's, such as a terminal's login
            flow = str(process.pid) == os.environ.get(DRIVER)
            if flow or any(Path(word).name == "dvc" for word in process.cmdline()[:3]):
                drivers.append((process, "the flow" if flow else "dvc"))
    told = False
    while drivers and not ended.wait(SECONDS):
        left = [driver for driver in drivers if _runs(driver[0])]
        if left == drivers or ended.is_set():
            continue
        process, name = next(driver for driver in drivers if driver not in left)
        with suppress(OSError):
            print(f"stopping: {name} (process {process.pid}) is gone, which drove this stage", file=sys.stderr)
        if "the flow" not in dict(left).values():  # else its log has the stage's last lines
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        if _elsewhere.is_set():
            os._exit(Interrupted.exit_code)
        if not told:
            os.kill(os.getpid(), signal.SIGTERM)
        drivers, told = left, True


def _runs(process: "psutil.Process") -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def under_way(folder: Path) -> bool:
    """Whether DVC runs a stage in a project, or in one below."""
    for file in [folder / ".dvc/tmp/rwlock", *folder.glob("*/.dvc/tmp/rwlock")]:
        try:
            text = file.read_text(encoding="utf-8")
            if any(psutil.pid_exists(pid) for pid in _pids(json.loads(text))):
                return True
        except FileNotFoundError:
            continue
        except ValueError:  # it is being written
            return True
    return False


def _pids(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        if isinstance(value.get("pid"), int):
            yield value["pid"]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _pids(one)
