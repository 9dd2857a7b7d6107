"""Did the run go well? The questions that a practitioner asks of the curves, answered in sentences."""

import numpy as np
from numpy.typing import NDArray

from moco.report.results import Results
from moco.report.samples import Samples

COLLAPSED = 0.5  # times the untrained encoder's spread
SATURATED = 0.99


def checks(results: Results, samples: Samples) -> list[tuple[bool, str]]:
    """(good, sentence) for the loss, the pretext task, the kNN readings, collapse and the baselines."""
    curves = results.curves
    tail = slice(-max(1, len(curves["loss"]) // 20), None)
    loss, chance = float(curves["loss"][tail].mean()), float(curves["chance"][-1])
    top1 = float(curves["top1"][tail].mean())
    said = [_loss(loss, chance), _pretext(top1)]
    if not (curves["queue_fill"] >= 1).any():
        said.append((False, "The queue never filled: train longer, or make queue_size smaller."))
    if len(results.knn["knn_top1"]) > 1:
        said.append(_knn(results.knn["knn_top1"]))
    said.append(_collapse(samples.collapse["moco"].spread, samples.collapse["random"].spread))
    if results.scores:
        said.append(_baselines(results))
    return said


def _loss(loss: float, chance: float) -> tuple[bool, str]:
    if loss < 0.95 * chance:
        return True, f"The loss ended at {loss:.2f}, well below chance ({chance:.2f})."
    return (
        False,
        f"The loss ended at {loss:.2f}, close to chance ({chance:.2f}): train longer, or change the rate.",
    )


def _pretext(top1: float) -> tuple[bool, str]:
    if top1 < SATURATED:
        return True, f"The pretext task is not solved by a shortcut: top-1 ended at {100 * top1:.0f} %."
    return (
        False,
        f"The pretext task is solved ({100 * top1:.1f} %): is shuffle_bn off, or are the views too alike?",
    )


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


def _baselines(results: Results) -> tuple[bool, str]:
    moco, random, pixels = (results.scores[kind].linear_top1 for kind in ("moco", "random", "pixels"))
    if moco > max(random, pixels):
        return (
            True,
            "The features beat both an untrained encoder and raw pixels under the same linear classifier.",
        )
    better = "an untrained encoder" if random >= pixels else "raw pixels"
    return (
        False,
        f"The features do not beat {better} under the same linear classifier: train longer.",
    )
