"""Progress for people and for the flow: a live line on a terminal, plain lines elsewhere.

Every line begins `STAGE  NN% · `, which is what the Prefect flow reads its progress bar from.
"""

import shutil
import sys
import time
from io import TextIOWrapper
from typing import TextIO

from moco.text import ESCAPE

SETTLED = 3.0
"""Seconds after which a speed tells the time that is left."""


def print_any_text() -> None:
    """Let stdout and stderr take any text: what their encoding lacks is written as its escape.

    A file's name need not be UTF-8, and a terminal need not know the dot of a progress line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


class Progress:
    """Prints how far a stage has come, and about how long the rest will take.

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
        self._begun: tuple[float, int] | None = None

    def update(self, done: int, note: str) -> None:
        """Show `done` of the total with a note; silent while the last line is still fresh."""
        now = time.monotonic()
        begun, before = self._begun = self._begun or (now, done)  # what was done before this start tells no speed
        if now - self._last < (0.1 if self.live else self.every) and done < self.total:
            return
        self._last = now
        line = f"{self.stage}  {min(100 * done // self.total, 100)}% · {note}"
        if before < done < self.total and now - begun >= SETTLED:
            line += f" · {duration((self.total - done) * (now - begun) / (done - before))} left"
        if self.live:
            line = line[: shutil.get_terminal_size().columns - 1]  # a longer one would leave its end behind
        end = "\n" if not self.live or done >= self.total else ""
        self.stream.write(f"\r\x1b[K{line}{end}" if self.live else f"{line}{end}")
        self.stream.flush()


def duration(seconds: float) -> str:
    """Write a time as a person says it: `40 s`, `12 min`, `3.5 h`, `2.5 days`."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{int(name == 'h')}f} {name}"
    return f"{seconds / 86_400:.1f} days"
