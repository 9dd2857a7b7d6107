"""What goes wrong while training, seen in the curves and readings, each with what to change.

The thresholds were set by measurement (docs/report.md, "What the detectors read").
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moco.config import Pretrain

Row = Mapping[str, float]
"""A row of curves.csv or readings.csv; NaN where a cell is empty."""

COLLAPSED_SPREAD = 0.1
"""Spread of the queries below which they are one point."""
COLLAPSED_RANK, SHRUNK_RANK = 2.0, 0.25
"""Effective rank below which nothing is left of the features; share of the first reading below which most is lost."""
LEAK = 0.1
"""By how much more often keys may be found in their queries' company; more where few images were asked (`leak_limit`)."""
SATURATED = 0.99
"""Pretext top-1 above which the task is solved."""
AT_CHANCE = 0.99
"""Share of ln(1+K) above which a loss is chance's."""
FEWEST_STEPS = 100
"""What is said of an epoch takes so many steps at least: small sets have epochs of ten, in which nothing settles."""
KNN_FALL = 0.05
"""Fraction of 1 that kNN may lie below its best."""


@dataclass(frozen=True)
class Validation:
    """How many images stand behind a reading, and so how much chance there is in it.

    Attributes:
        images: of the validation split.
        classified: those behind a kNN accuracy; 0 without labels.
        probed: those that the leak probe takes.
    """

    images: int
    classified: int
    probed: int


@dataclass(frozen=True)
class Alarm:
    """Something that is wrong.

    Attributes:
        name: of the kind: collapse, rank, leak, shortcut, chance or knn.
        what: a clause that gives the figures.
        remedy: a clause that names the settings to change and their values.
    """

    name: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class Watch:
    """Takes a run's rows in order, and raises each kind of alarm once.

    Args:
        settings: of the run.
        validation: the images behind its readings.
    """

    def __init__(self, settings: Pretrain, validation: Validation) -> None:
        self.settings, self.classified = settings, validation.classified
        self.leak_limit = leak_limit(validation.probed)
        self._raised: set[str] = set()
        self._at_chance_since: Row | None = None
        self._pretext = math.nan
        self._first_rank = self._best = math.nan

    def step(self, row: Row) -> list[Alarm]:
        """What a row of curves.csv gives rise to, and no row before did."""
        self._pretext = row["top1"]
        found = []
        settled = row["epoch"] >= 1 and row["step"] >= FEWEST_STEPS
        if settled and row["feature_std"] < COLLAPSED_SPREAD:
            what = f"the queries have collapsed into almost one direction (spread {row['feature_std']:.2f})"
            found.append(Alarm("collapse", what, self._calmer))
        if row["queue_fill"] < 1 or row["loss"] < AT_CHANCE * row["chance"]:
            self._at_chance_since = None
        elif self._at_chance_since is None:
            self._at_chance_since = row
        elif (
            row["epoch"] - self._at_chance_since["epoch"] >= 1 - 1e-9  # sums of fractions
            and row["step"] - self._at_chance_since["step"] >= FEWEST_STEPS
        ):
            what = f"the loss ({row['loss']:.2f}) has been at chance ({row['chance']:.2f}) for a whole epoch, and nothing is learned yet"
            found.append(Alarm("chance", what, self._calmer))
        return self._new(found)

    def reading(self, row: Row) -> list[Alarm]:
        """What a row of readings.csv gives rise to, and no row before did."""
        return self._new([*self._rank(row["effective_rank"]), *self._leak(row["leak"]), *self._knn(row["knn_top1"])])

    def _rank(self, rank: float) -> Iterable[Alarm]:
        if math.isnan(self._first_rank):
            self._first_rank = rank
        if rank < COLLAPSED_RANK:
            yield Alarm(
                "rank", f"the features use hardly more than one dimension (effective rank {rank:.1f})", self._calmer
            )
        elif rank < SHRUNK_RANK * self._first_rank:
            what = f"the features' effective rank fell from {self._first_rank:.1f} at the first reading to {rank:.1f}"
            yield Alarm("rank", what, self._calmer)

    def _leak(self, leak: float) -> Iterable[Alarm]:
        if leak > self.leak_limit:
            what = f"batch norm gives keys away: they are found {100 * leak:.0f} points more often in their queries' company"
            yield Alarm("leak", what, self._fairer)

    def _knn(self, top1: float) -> Iterable[Alarm]:
        if math.isnan(top1):
            return
        best = self._best = top1 if math.isnan(self._best) else max(top1, self._best)
        figures = f"from {100 * best:.1f} % to {100 * top1:.1f} %"
        if fell(best, top1, self.classified, 0.0) and self._pretext > SATURATED:
            what = f"kNN fell {figures} while the pretext task is solved ({100 * self._pretext:.1f} %): a shortcut"
            yield Alarm("shortcut", what, self._fairer)
        elif fell(best, top1, self.classified):
            yield Alarm("knn", f"kNN fell {figures}: the features got worse", self._calmer)

    def _new(self, found: list[Alarm]) -> list[Alarm]:
        fresh = [alarm for alarm in found if alarm.name not in self._raised]
        self._raised |= {alarm.name for alarm in fresh}
        return fresh

    @property
    def _calmer(self) -> str:
        rate = f"lower pretrain.lr_per_256 (now {self.settings.lr_per_256})"
        slower = f"raise pretrain.momentum (now {self.settings.momentum}) or {rate}"
        if self.settings.mechanism == "momentum-queue":
            # As far from random keys as can be is one direction for all queries; deep encoders do not find out of it.
            return f"{slower}, or, for a deep encoder, pretrain.queue_size (now {self.settings.queue_size}), whose keys are random at first"
        if self.settings.mechanism == "momentum-batch":
            return slower
        return f"{rate} or raise pretrain.temperature (now {self.settings.temperature})"

    @property
    def _fairer(self) -> str:
        if not self.settings.shuffle_bn and self.settings.mechanism != "memory-bank":
            return "set pretrain.shuffle_bn: true"
        return (
            f"raise pretrain.bn_group_size (now {self.settings.bn_group_size}), or make the views less alike:"
            f" lower pretrain.views.crop_scale_min (now {self.settings.views.crop_scale_min})"
        )


def leak_limit(probed: int) -> float:
    """Leak above which it is no chance: `LEAK`, or two standard errors at most of a difference of two accuracies.

    Args:
        probed: images that the probe takes.
    """
    return max(LEAK, 2 * math.sqrt(0.5 / max(probed, 1)))


def fell(best: float, now: float, images: int, least: float = KNN_FALL) -> bool:
    """Whether an accuracy lies below its best by more than `least`, and more than three standard errors."""
    likely = (images * best + 1) / (images + 2)  # never 0 or 1: one image lost of all is no fall
    error = math.sqrt(likely * (1 - likely) / max(images, 1))
    return best - now > max(least, 3 * error)


def alarms(settings: Pretrain, validation: Validation, curves: Iterable[Row], readings: Iterable[Row]) -> list[Alarm]:
    """All alarms of a run, in the order in which they were raised; arguments as of `Watch` and its methods."""
    watch = Watch(settings, validation)
    return replay(watch, curves, readings)


def replay(watch: Watch, curves: Iterable[Row], readings: Iterable[Row]) -> list[Alarm]:
    """Show a watch rows from before, as they came: a reading follows the steps of its epoch."""
    found, steps = [], list(curves)
    for reading in readings:
        while steps and steps[0]["epoch"] <= reading["epoch"]:
            found += watch.step(steps.pop(0))
        found += watch.reading(reading)
    for row in steps:
        found += watch.step(row)
    return found


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """A row of a CSV file; an empty cell is NaN."""
    return {name: float(cell) if cell else math.nan for name, cell in row.items()}
