"""A run's files, sent to MLflow as they grow, wherever the run's processes are."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moco import tracking
from moco.alarms import Watch
from moco.config import Pretrain
from moco.runs.curves import Tail, numbers
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


FILES = ("readings.csv", "curves.csv", "speed.csv")  # a reading is never read before the steps that it follows


class _Reader:
    def __init__(
        self,
        folder: Path,
        tracked: tracking.TrackedRun,
        steps_per_epoch: int,
        settings: Pretrain,
        validation: Validation,
    ) -> None:
        self.tracked, self.steps_per_epoch = tracked, steps_per_epoch
        self.settings, self.validation = settings, validation
        self._tails = {name: Tail(folder / name) for name in FILES}
        self._watch, self._begun_again = Watch(settings, validation), 0
        self._tagged: set[str] = set()
        self._reported: dict[str, int] = {}

    def report(self) -> None:
        fresh = {name: tail.rows() for name, tail in self._tails.items()}
        for name, rows in fresh.items():
            self._report_rows(name, self.steps_per_epoch if name == "readings.csv" else 1, rows)
        begun_again = sum(tail.begun_again for tail in self._tails.values())
        if begun_again != self._begun_again:
            self._watch, self._begun_again = Watch(self.settings, self.validation), begun_again
        curves, readings = ([numbers(row) for row in fresh[name]] for name in ("curves.csv", "readings.csv"))
        for alarm in self._watch.replay(curves, readings):
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
