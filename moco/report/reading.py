"""Did the run go well? Verdicts at the end, warnings on the way, and baselines."""

import numpy as np

from moco.alarms import Watch
from moco.config import Pretrain
from moco.features.intervals import beyond_chance
from moco.report.results import Results, Table
from moco.training.monitor import validation_of
from moco.verdicts import FEWEST_IMAGES, Validation, Verdict, verdicts


def judged(results: Results, settings: Pretrain) -> tuple[list[Verdict], list[Verdict]]:
    """Judge a run as its own alarms did.

    Returns:
        The verdicts at the end, good or bad; and those that turned bad on the way, in order.
    """
    watch = Watch(settings, validation(results, settings))
    raised = watch.replay(_rows(results.curves), _rows(results.readings))
    return verdicts(watch.history) + _baselines(results), raised


def validation(results: Results, settings: Pretrain) -> Validation:
    """Count the images behind the readings."""
    train, val = results.fetch["train"], results.fetch["val"]
    return validation_of(val["images"], val["labelled"] if train["labelled"] else 0, settings.bn_group_size)


def filling(curves: Table) -> tuple[int, float, int, float] | None:
    """Find the lowest loss while random first keys were left, and the loss once there were none.

    Returns:
        (step, loss, step, loss), or None: it did not rise, or was never or always full.
    """
    full = curves["queue_fill"] >= 1
    if not full.any() or full[0]:
        return None
    last = int(np.argmax(full))
    first = int(np.argmin(curves["loss"][:last]))
    low, high = float(curves["loss"][first]), float(curves["loss"][last])
    return (int(curves["step"][first]), low, int(curves["step"][last]), high) if high > low else None


def _rows(table: Table) -> list[dict[str, float]]:
    return [dict(zip(table, map(float, values), strict=True)) for values in zip(*table.values(), strict=True)]


def _baselines(results: Results) -> list[Verdict]:
    tested = len(results.confusion)
    if not results.scores or tested < FEWEST_IMAGES:
        return []
    moco, random, pixels = (results.scores[kind].linear_top1 for kind in ("moco", "random", "pixels"))
    if beyond_chance(moco, max(random, pixels), tested):
        what = "the features beat both an untrained encoder and raw pixels under the same linear classifier"
        return [Verdict("baselines", True, what)]
    if moco > max(random, pixels):
        what = f"the features are above an untrained encoder and raw pixels by no more than chance makes on {tested} test images"
        return [Verdict("baselines", False, what, "train longer, or test on more images")]
    better = "an untrained encoder" if random >= pixels else "raw pixels"
    what = f"the features do not beat {better} under the same linear classifier"
    return [Verdict("baselines", False, what, "train longer")]
