"""When the judge's verdicts are said while training: each bad one once, as soon as it turns bad."""

from collections.abc import Iterable

from moco.config import Pretrain
from moco.verdicts import History, Row, Validation, Verdict, verdicts


class Watch:
    """Takes a run's rows in order, and raises each kind of bad verdict once.

    Args:
        settings: of the run.
        validation: the images behind its readings.

    Attributes:
        history: what the run has shown so far.
    """

    def __init__(self, settings: Pretrain, validation: Validation) -> None:
        self.history = History(settings, validation)
        self._raised: set[str] = set()

    def step(self, row: Row) -> list[Verdict]:
        """Take a row of curves.csv; gives what turned bad with it for the first time."""
        self.history.step(row)
        return self._new()

    def reading(self, row: Row) -> list[Verdict]:
        """Take a row of readings.csv; gives what turned bad with it for the first time."""
        self.history.reading(row)
        return self._new()

    def replay(self, curves: Iterable[Row], readings: Iterable[Row]) -> list[Verdict]:
        """Take rows from before, as they came: a reading follows the steps of its epoch."""
        rows = [(row["epoch"], 0, self.step, row) for row in curves]
        rows += [(row["epoch"], 1, self.reading, row) for row in readings]
        return [verdict for *_, take, row in sorted(rows, key=lambda entry: entry[:2]) for verdict in take(row)]

    def _new(self) -> list[Verdict]:
        bad = [verdict for verdict in verdicts(self.history) if not verdict.good and verdict.name not in self._raised]
        self._raised |= {verdict.name for verdict in bad}
        return bad
