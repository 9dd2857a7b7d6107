"""Bring the servers up: what drives the pipeline is the program flows.up."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def up(arguments: Sequence[str]) -> NoReturn:
    """Become that program: a signal then reaches it, and nothing stands between."""
    os.execv(sys.executable, [sys.executable, "-m", "flows.up", *arguments])
