"""One judge of a run's curves and readings, for the alarms on the way and the report at the end.

Thresholds were set by measurement (docs/report.md, "What the detectors read").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from moco.config import Pretrain
from moco.dictionary.kinds import Mechanism

Row = Mapping[str, float]
"""A row of curves.csv or readings.csv; NaN where a cell is empty."""

AT_CHANCE = 0.99
"""Share of ln(1+K) above which a loss is chance's."""
SATURATED = 0.99
"""Pretext top-1 above which the task is solved."""
LEAK = 0.1
"""By how much more often keys in their queries' norm groups may be found (see `leak_limit`)."""
KNN_FALL = 0.05
"""Fraction of 1 that kNN may lie below its best."""
COLLAPSED_SPREAD = 0.1
"""Spread of the queries below which they are one point."""
COLLAPSED_RANK, SHRUNK_RANK = 2.0, 0.25
"""Effective ranks that are too low: a number, and a share of the first reading."""
FEWEST_IMAGES = 30
"""Images that a verdict on their features needs: of fewer, chance alone makes any."""
FEWEST_STEPS = 100
"""Steps before an epoch says anything: nothing settles in the epochs of small sets."""
_EPSILON = 1e-9  # epochs are sums of fractions


@dataclass(frozen=True)
class Validation:
    """How many validation images stand behind a reading, and so how much chance there is in it.

    Attributes:
        classified: those behind a kNN accuracy; 0 without labels.
        probed: those that the leak probe takes.
        measured: those whose features are measured for collapse.
    """

    classified: int
    probed: int
    measured: int


@dataclass(frozen=True)
class Verdict:
    """One thing that is judged.

    Attributes:
        name: of what is judged: chance, filling, shortcut, leak, knn, collapse or rank.
        good: whether it is as it should be.
        what: a clause that gives the figures.
        remedy: a clause that names the settings to change and their values; empty if good.
    """

    name: str
    good: bool
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what

    @property
    def sentence(self) -> str:
        """The same as a sentence of the report."""
        text = str(self)
        return f"{text[0].upper()}{text[1:]}."


@dataclass
class History:
    """What a run has shown so far.

    Attributes:
        settings: of the run.
        validation: the images behind its readings.
        row: the last row of its curves.
        at_chance: the row since which its loss is at chance with a full dictionary, or None.
        knn, ranks, leaks: the readings that were taken, in order.
    """

    settings: Pretrain
    validation: Validation
    row: Row | None = None
    at_chance: Row | None = None
    knn: list[float] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    leaks: list[float] = field(default_factory=list)

    def step(self, row: Row) -> None:
        """Add a row of curves.csv."""
        self.row = row
        if row["queue_fill"] < 1 or row["loss"] < AT_CHANCE * row["chance"]:
            self.at_chance = None
        elif self.at_chance is None:
            self.at_chance = row

    def reading(self, row: Row) -> None:
        """Add a row of readings.csv."""
        for values, name in ((self.knn, "knn_top1"), (self.ranks, "effective_rank"), (self.leaks, "leak")):
            if not math.isnan(row[name]):
                values.append(row[name])


def verdicts(history: History) -> list[Verdict]:
    """Judge a run by what it has shown so far; nothing is said of what cannot be told yet."""
    judges = (_chance, _filling, _shortcut, _leak, _knn, _collapse, _rank)
    return [verdict for judge in judges if (verdict := judge(history))]


def leak_limit(probed: int) -> float:
    """Give the largest leak that may be chance: `LEAK`, or two standard errors of the difference.

    Args:
        probed: images that the probe takes.
    """
    return max(LEAK, 2 * math.sqrt(0.5 / max(probed, 1)))


def fell(best: float, now: float, images: int, least: float = KNN_FALL) -> bool:
    """Tell whether an accuracy is below its best by more than `least` and three standard errors."""
    likely = (images * best + 1) / (images + 2)  # never 0 or 1: one image lost of all is no fall
    error = math.sqrt(likely * (1 - likely) / max(images, 1))
    return best - now > max(least, 3 * error)


def mechanism_of(settings: Pretrain) -> Mechanism:
    """Describe the mechanism of a run."""
    return settings.dictionary.about


def _chance(history: History) -> Verdict | None:
    row, since = history.row, history.at_chance
    if row is None or row["queue_fill"] < 1:
        return None
    loss, chance = f"{row['loss']:.2f}", f"{row['chance']:.2f}"
    if since is None:
        return Verdict("chance", True, f"the loss is {loss}, below chance ({chance})")
    if row["epoch"] - since["epoch"] >= 1 - _EPSILON and row["step"] - since["step"] >= FEWEST_STEPS:
        what = f"the loss ({loss}) has been at chance ({chance}) for a whole epoch, and nothing is learned yet"
        return Verdict("chance", False, what, _calmer(history.settings))
    if row["epoch"] >= history.settings.epochs - _EPSILON:
        what = f"the run ended with its loss ({loss}) at chance ({chance})"
        return Verdict("chance", False, what, f"raise {_named(history.settings)['epochs']}")
    return None


def _filling(history: History) -> Verdict | None:
    row, mechanism = history.row, mechanism_of(history.settings)
    if row is None or not mechanism.fills or row["queue_fill"] >= 1:
        return None
    share = row["queue_fill"] * history.settings.epochs / row["epoch"]  # at the end, for it fills evenly
    if share >= 1 - _EPSILON:
        return None
    remedy = mechanism.against_unfilled.format(**_named(history.settings))
    return Verdict("filling", False, mechanism.unfilled.format(share=f"{100 * share:.0f} %"), remedy)


def _shortcut(history: History) -> Verdict | None:
    if history.row is None:
        return None
    solved, top1 = _solved(history), _percent(history.row["top1"])
    if solved and not _reads_knn(history) and _settled(history.row):
        what = f"the pretext task is solved ({top1}), by a shortcut as far as can be told without kNN"
        return Verdict("shortcut", False, what, _fairer(history.settings))
    if _cheats(history):
        what = f"the pretext task is solved ({top1}) while kNN fell {_fall(history)}: a shortcut"
        return Verdict("shortcut", False, what, _fairer(history.settings))
    if solved:
        return Verdict("shortcut", True, f"the pretext task is solved ({top1}), and kNN has not fallen")
    return Verdict("shortcut", True, f"the pretext task is not solved by a shortcut: top-1 is {top1}")


def _leak(history: History) -> Verdict | None:
    if not history.leaks or history.validation.probed < FEWEST_IMAGES:
        return None
    points = 100 * history.leaks[-1]
    if history.leaks[-1] <= leak_limit(history.validation.probed):
        return Verdict("leak", True, f"batch norm gives no keys away: leak {points:+.0f} points".replace("-", "−"))
    what = (
        f"batch norm gives keys away: those encoded in their queries' groups are found {points:.0f} points more often"
    )
    return Verdict("leak", False, what, _fairer(history.settings))


def _knn(history: History) -> Verdict | None:
    if (
        len(history.knn) < 2 or history.validation.classified < FEWEST_IMAGES or _cheats(history)
    ):  # the shortcut says it
        return None
    first, best, last = history.knn[0], max(history.knn), history.knn[-1]
    if fell(best, last, history.validation.classified):
        what = f"validation accuracy by kNN fell {_fall(history)}: the features got worse"
        return Verdict("knn", False, what, _steadier(history.settings))
    highest = f", highest {_percent(best)}" if best > last else ""
    return Verdict("knn", True, f"validation accuracy by kNN went from {_percent(first)} to {_percent(last)}{highest}")


def _collapse(history: History) -> Verdict | None:
    if history.row is None:
        return None
    spread = history.row["feature_std"]
    if spread >= COLLAPSED_SPREAD:
        return Verdict("collapse", True, f"the queries have not collapsed: spread {spread:.2f}")
    if not _settled(history.row):
        return None
    what = f"the queries have collapsed into almost one direction (spread {spread:.2f})"
    return Verdict("collapse", False, what, _calmer(history.settings))


def _rank(history: History) -> Verdict | None:
    if not history.ranks or history.validation.measured < FEWEST_IMAGES:
        return None
    first, last = history.ranks[0], history.ranks[-1]
    if last < COLLAPSED_RANK:
        what = f"the features use hardly more than one dimension (effective rank {last:.1f})"
    elif last < SHRUNK_RANK * first:
        what = f"the features' effective rank fell from {first:.1f} at the first reading to {last:.1f}"
    else:
        return Verdict("rank", True, f"the features use many dimensions: effective rank {last:.1f}")
    return Verdict("rank", False, what, _calmer(history.settings))


def _settled(row: Row) -> bool:
    return row["epoch"] >= 1 - _EPSILON and row["step"] >= FEWEST_STEPS


def _solved(history: History) -> bool:
    """Whether the task is solved among real keys; random ones are no task even untrained."""
    row = history.row
    return row is not None and row["queue_fill"] >= 1 and row["top1"] > SATURATED


def _reads_knn(history: History) -> bool:
    return bool(history.validation.classified >= FEWEST_IMAGES and history.settings.knn_every_epochs)


def _cheats(history: History) -> bool:
    images = history.validation.classified
    return _solved(history) and bool(history.knn) and fell(max(history.knn), history.knn[-1], images, 0.0)


def _fall(history: History) -> str:
    return f"from {_percent(max(history.knn))} to {_percent(history.knn[-1])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _steadier(settings: Pretrain) -> str:
    return mechanism_of(settings).against_collapse.format(**_named(settings))


def _calmer(settings: Pretrain) -> str:
    """Say the same of what can be so from the first steps on, which are on random keys."""
    random = getattr(settings.dictionary, "start", "") == "random"
    more = mechanism_of(settings).against_random_start if random else ""
    return _steadier(settings) + more.format(**_named(settings))


def _fairer(settings: Pretrain) -> str:
    if not settings.shuffle_bn and mechanism_of(settings).encodes_keys:
        return "set pretrain.shuffle_bn: true"
    return "raise {group}, or make the views less alike: lower {crop}".format(**_named(settings))


def _named(settings: Pretrain) -> dict[str, str]:
    """Name the settings of remedies, each with its key and its value."""
    found = {
        "momentum": ("dictionary.momentum", getattr(settings.dictionary, "momentum", None)),
        "rate": ("lr_per_256", settings.lr_per_256),
        "size": ("dictionary.num_keys", getattr(settings.dictionary, "num_keys", None)),
        "start": ("dictionary.start", getattr(settings.dictionary, "start", None)),
        "temperature": ("temperature", settings.temperature),
        "epochs": ("epochs", settings.epochs),
        "group": ("bn_group_size", settings.bn_group_size),
        "crop": ("views.crop_scale_min", settings.views.crop_scale_min),
    }
    return {word: f"pretrain.{key} (now {value})" for word, (key, value) in found.items()}
