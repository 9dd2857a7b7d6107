"""Progress for people and for the flow: a live line on a terminal, plain lines elsewhere.

Every line begins `STAGE  NN% · `, which is what the Prefect flow reads its progress bar from.
"""

import sys
import time
from io import TextIOWrapper
from typing import TextIO

from moco.text import ESCAPE


def print_any_text() -> None:
    """Let stdout and stderr take any text: what their encoding lacks is written as its escape.

    A file's name need not be UTF-8, and a terminal need not know the dot of a progress line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


class Progress:
    """Prints how far a stage has come.

    Args:
        stage: first word of the line.
        total: amount of work, in the unit that `update` counts.
        every: seconds between two lines where the output is no terminal.
    """

    def __init__(self, stage: str, total: int, every: float = 5.0, stream: TextIO | None = None) -> None:
        self.stage, self.total, self.every = stage, max(total, 1), every
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._last = float("-inf")

    def update(self, done: int, note: str) -> None:
        """Show `done` of the total with a note; silent while the last line is still fresh."""
        now = time.monotonic()
        if now - self._last < (0.1 if self.live else self.every) and done < self.total:
            return
        self._last = now
        line = f"{self.stage}  {min(100 * done // self.total, 100)}% · {note}"
        end = "\n" if not self.live or done >= self.total else ""
        self.stream.write(f"\r\x1b[K{line}{end}" if self.live else f"{line}{end}")
        self.stream.flush()
