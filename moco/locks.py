"""Locks of the operating system on files: they end with their process, however that ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moco.errors import MocoError


@contextmanager
def exclusive(
    path: Path, folder: Path, patience: float, what: str = "is training this very run", who: str = ""
) -> Iterator[None]:
    """Hold a lock file, which names its holder.

    Args:
        path: the file; made if missing.
        folder: of the run, for the message.
        patience: seconds to wait for another holder.
        what: a holder does, for the message.
        who: this holder is, besides its process.

    Raises:
        MocoError: another process holds it and did not let go.
    """
    deadline = time.monotonic() + patience
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise MocoError(
                        f"{folder}: another process {what} ({file.read()}); wait for it, or stop it"
                    ) from None
                time.sleep(0.2)
            except OSError as error:  # some network file systems are mounted without locks
                print(
                    f"{folder} cannot be locked ({error.strerror}); see to it that no other process {what}", flush=True
                )
                break
        file.truncate(0)
        file.write(f"{who}, " * bool(who) + f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def locked_by_another(path: Path) -> bool:
    """Tell whether another process holds a lock file; one that is not there is held by nobody."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False
