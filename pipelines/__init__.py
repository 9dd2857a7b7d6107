"""One thin file per DVC stage: params, library, outputs."""

import logging
import os
import sys
from types import TracebackType

# torch reads it when it is imported: what its agent prints of a lost rendezvous, with C++ frames,
# is said in one line.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

# Without a HOME that can be written it warns in each stage; `moco doctor` says it once.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

STOPPED = "stopped; the same command resumes"
"""What a person reads after Ctrl-C."""


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        _before(kind, error, traceback)


# Ctrl-C during the seconds of imports, which come before anything can catch it.
_before, sys.excepthook = sys.excepthook, _one_line
