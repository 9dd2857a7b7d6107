"""A run's files, sent to MLflow as they grow, wherever the run's processes are."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from moco import tracking
from moco.alarms import Watch
from moco.config import Pretrain
from moco.runs.curves import numbers, read_rows
from moco.verdicts import Validation

SECONDS = 2.0


@contextmanager
def followed(
    folder: Path, tracked: tracking.TrackedRun, steps_per_epoch: int, settings: Pretrain, validation: Validation
) -> Iterator[None]:
    """Report new rows of the run's curves every few seconds and at the end; alarms become tags.

    A resumed run repeats rows with the same values under the same steps; the tracked run skips
    them.

    Args:
        folder: the run's.
        tracked: where to.
        steps_per_epoch: of the run.
        settings: of the run.
        validation: the images behind its readings.
    """
    ended = threading.Event()
    reader = _Reader(folder, tracked, steps_per_epoch, settings, validation)

    def follow() -> None:
        while not ended.wait(SECONDS):
            reader.report()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        reader.report()


@dataclass
class _Reader:
    folder: Path
    tracked: tracking.TrackedRun
    steps_per_epoch: int
    settings: Pretrain
    validation: Validation
    _tagged: set[str] = field(default_factory=set)
    _reported: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def report(self) -> None:
        if self._report_files():
            self._tag_alarms()

    def _report_files(self) -> bool:
        """Tell whether one of them has changed."""
        changed = False
        for name, unit in (("curves.csv", 1), ("speed.csv", 1), ("readings.csv", self.steps_per_epoch)):
            path = self.folder / name
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if self._seen.get(name) == (state.st_ino, state.st_size):
                continue
            self._seen[name] = state.st_ino, state.st_size
            self._report_rows(name, unit, read_rows(path))
            changed = True
        return changed

    def _tag_alarms(self) -> None:
        curves, readings = (
            [numbers(row) for row in read_rows(self.folder / name)] for name in ("curves.csv", "readings.csv")
        )
        for alarm in Watch(self.settings, self.validation).replay(curves, readings):
            if alarm.name not in self._tagged:
                self._tagged.add(alarm.name)
                self.tracked.tags({f"warning.{alarm.name}": str(alarm)})

    def _report_rows(self, name: str, unit: int, rows: list[dict[str, str]]) -> None:
        """Send new rows; `unit` is how many steps one of the first column is."""
        for row in rows:
            key, *names = row
            at = int(row[key]) * unit
            if at > self._reported.get(name, -1):
                self._reported[name] = at
                self.tracked.metrics({column: float(row[column]) for column in names if row[column]}, at)
