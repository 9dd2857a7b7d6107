"""The end of a process, without the seconds that Python takes to remove every object."""

import atexit
import os
import sys
import threading
from typing import NoReturn

from moco.errors import Interrupted, MocoError


def end_process(code: int) -> NoReturn:
    """Do what threads and libraries do at a process's end, and end it.

    Python itself would then remove every object, for which a person waits 1 to 2 s of a core where
    torch and Prefect are loaded.

    Args:
        code: the exit code; after a second Ctrl-C it is that of a stopped process.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    except BrokenPipeError:
        code = code or MocoError.exit_code
    os._exit(code)
