"""What a part of the proof has found, on disk from its first figure on."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moco.files import write_text

CUT_SHORT = "not finished"


@dataclass
class Record:
    """The figures of a part, written at each change: a part that is cut short keeps what it had.

    Attributes:
        part: its name.
        limit: seconds that it may take.
        figures: by name, which ends in the unit where there is one.
        notes: what was left out, and why.
        failed: what is not as it must be, or why the part ended; empty: all is well.
        seconds: that it took.
    """

    part: str
    limit: float
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def open(self, folder: Path) -> None:
        """Begin the file PART.json."""
        self._folder, self._began = folder, time.monotonic()
        self._write([CUT_SHORT])

    def add(self, name: str, value: Any) -> None:
        """Keep a figure."""
        self.figures[name] = value
        self._write([CUT_SHORT])

    def note(self, text: str) -> None:
        """Say what was left out, and why."""
        self.notes.append(text)
        self._write([CUT_SHORT])

    def check(self, name: str, found: float, at_most: float) -> None:
        """Keep a figure that has a limit; what is not a number passes none."""
        if not found <= at_most:
            self.failed.append(f"{name}: {found:.3g}, at most {at_most:.3g}")
        self.add(name, found)

    def require(self, what: str, holds: bool) -> None:
        """Keep whether something is as it must be."""
        if not holds:
            self.failed.append(what)
        self.add(what, holds)

    @property
    def left(self) -> float:
        """Seconds that the part still has."""
        return self.limit - (time.monotonic() - self._began)

    def close(self, reason: str = "") -> None:
        """Write the file for good.

        Args:
            reason: why the part ended before its end; "": it did not.
        """
        self.failed += [reason] if reason else []
        self._write([])

    def _write(self, more: list[str]) -> None:
        self.seconds = round(time.monotonic() - self._began, 1)
        values = asdict(self)
        values["failed"] = self.failed + more
        write(self._folder, self.part, {"ok": not values["failed"], **values})


def write(folder: Path, part: str, values: dict[str, Any]) -> None:
    """Write what a part leaves, whole."""
    write_text(folder / f"{part}.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path, part: str) -> dict[str, Any]:
    """Read what a part has left."""
    found: dict[str, Any] = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    return found
