"""Did the run go well? The questions that a practitioner asks of the curves, answered in sentences."""

import numpy as np
from numpy.typing import NDArray

from moco.alarms import COLLAPSED_RANK, SATURATED, SHRUNK_RANK, Alarm, Validation, alarms, leak_limit
from moco.config import Pretrain
from moco.report.results import Results, Table
from moco.report.samples import Collapse, Samples
from moco.training.monitor import validation_of

COLLAPSED = 0.5  # times the untrained encoder's spread
CONFIRMED = 0.95  # of chance, below which a loss has surely left it


def checks(results: Results, samples: Samples, settings: Pretrain) -> list[tuple[bool, str]]:
    """(good, sentence) for the loss, the pretext task, the leak, the kNN readings, collapse and the baselines."""
    curves, readings = results.curves, results.readings
    tail = slice(-max(1, len(curves["loss"]) // 20), None)
    loss, chance = float(curves["loss"][tail].mean()), float(curves["chance"][-1])
    top1 = float(curves["top1"][tail].mean())
    said = [_loss(loss, chance), _pretext(top1)]
    if not (curves["queue_fill"] >= 1).any():
        said.append((False, _never_full(settings, float(curves["queue_fill"][-1]))))
    if len(leaks := _taken(readings["leak"])):
        said.append(_leak(float(leaks[-1]), limit_of_leak(results, settings), settings))
    if len(taken := _taken(readings["knn_top1"])) > 1:
        said.append(_knn(taken))
    said.append(_collapse(samples.collapse["moco"].spread, samples.collapse["random"].spread))
    said.append(_rank(samples.collapse, _taken(readings["effective_rank"])))
    if results.scores:
        said.append(_baselines(results))
    return said


def warned(results: Results, settings: Pretrain) -> list[Alarm]:
    """What the run warned of while it went, in that order."""
    return alarms(settings, _validation(results, settings), _as_rows(results.curves), _as_rows(results.readings))


def limit_of_leak(results: Results, settings: Pretrain) -> float:
    """The leak above which the run warned."""
    return leak_limit(_validation(results, settings).probed)


def _validation(results: Results, settings: Pretrain) -> Validation:
    train, val = results.fetch["train"], results.fetch["val"]
    return validation_of(val["images"], val["labelled"] if train["labelled"] else 0, settings.bn_group_size)


def filling(curves: Table) -> tuple[int, float, int, float] | None:
    """Where the loss was lowest while random first keys were left, and what it was once there were none.

    Returns:
        (step, loss, step, loss), or None where it did not rise, or the dictionary was never or always full.
    """
    full = curves["queue_fill"] >= 1
    if not full.any() or full.all() or full[0]:
        return None
    last = int(np.argmax(full))
    first = int(np.argmin(curves["loss"][:last]))
    low, high = float(curves["loss"][first]), float(curves["loss"][last])
    return (int(curves["step"][first]), low, int(curves["step"][last]), high) if high > low else None


def _as_rows(table: Table) -> list[dict[str, float]]:
    return [dict(zip(table, map(float, values), strict=True)) for values in zip(*table.values(), strict=True)]


def _taken(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _loss(loss: float, chance: float) -> tuple[bool, str]:
    if loss < CONFIRMED * chance:
        return True, f"The loss ended at {loss:.2f}, well below chance ({chance:.2f})."
    return (False, f"The loss ended at {loss:.2f}, close to chance ({chance:.2f}): train longer, or change the rate.")


def _pretext(top1: float) -> tuple[bool, str]:
    if top1 < SATURATED:
        return True, f"The pretext task is not solved by a shortcut: top-1 ended at {100 * top1:.0f} %."
    return (False, f"The pretext task is solved ({100 * top1:.1f} %): is shuffle_bn off, or are the views too alike?")


def _never_full(settings: Pretrain, fill: float) -> str:
    if settings.mechanism == "memory-bank":
        return (
            f"The memory bank was never free of random first keys ({100 * fill:.0f} % were real at the end):"
            " train for more than one epoch."
        )
    return f"The queue never filled ({100 * fill:.0f} % at the end): train longer, or make queue_size smaller."


def _leak(leak: float, limit: float, settings: Pretrain) -> tuple[bool, str]:
    figures = f"{100 * leak:+.0f} points".replace("-", "−")
    if leak <= limit:
        return True, f"Batch norm does not give the keys away: leak {figures}."
    remedy = "make bn_group_size larger" if settings.shuffle_bn else "set shuffle_bn: true"
    return False, f"Batch norm gives the keys away: leak {figures}; {remedy}."


def _knn(readings: NDArray[np.float64]) -> tuple[bool, str]:
    first, best, last = float(readings[0]), float(readings.max()), float(readings[-1])
    if last >= best - 0.02:
        return True, f"kNN accuracy on validation went from {100 * first:.1f} % to {100 * last:.1f} %."
    return (
        False,
        f"kNN accuracy on validation fell from {100 * best:.1f} % to {100 * last:.1f} %: features got worse.",
    )


def _collapse(spread: float, untrained: float) -> tuple[bool, str]:
    figures = f"spread {spread:.2f}, untrained {untrained:.2f}"
    if spread > COLLAPSED * untrained:
        return True, f"The features have not collapsed: {figures}."
    return False, f"The features have collapsed: {figures}. Raise momentum or lower lr_per_256."


def _rank(collapse: dict[str, Collapse], readings: NDArray[np.float64]) -> tuple[bool, str]:
    """Judged as while training: by itself, and against the first reading of the same run."""
    now, untrained = collapse["moco"], collapse["random"]
    figures = f"effective rank {now.rank:.1f} of {now.of}, untrained {untrained.rank:.1f}"
    if now.rank < COLLAPSED_RANK:
        return False, f"The features use hardly more than one dimension: {figures}. Lower lr_per_256."
    if len(readings) and readings[-1] < SHRUNK_RANK * readings[0]:
        fall = f"from {readings[0]:.1f} at the first reading to {readings[-1]:.1f}"
        return False, f"The features lost most of their dimensions: effective rank {fall}. Lower lr_per_256."
    return True, f"The features use many dimensions: {figures}."


def _baselines(results: Results) -> tuple[bool, str]:
    moco, random, pixels = (results.scores[kind].linear_top1 for kind in ("moco", "random", "pixels"))
    if moco > max(random, pixels):
        return (True, "The features beat both an untrained encoder and raw pixels under the same linear classifier.")
    better = "an untrained encoder" if random >= pixels else "raw pixels"
    return (False, f"The features do not beat {better} under the same linear classifier: train longer.")
