"""Checks of a version against the last one: fewer images, other classes, other looks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.checks.reference import Reference, reference_of, sample_of
from moco.checks.result import Result, at_most, percent
from moco.config import Check
from moco.survey.run import Survey

SMOOTHED = 0.5
"""Added to the count of each class, so that one without images has a logarithm."""
PERMUTATIONS = 200
SURE = 0.01
"""Share of permutations that may reach a distance for it to count as more than chance."""
FEWEST = 50
"""Images from which on their distance is computed."""
ACCEPT = "if that is meant, raise it for this version"


@dataclass(frozen=True)
class Distance:
    """How differently two sets of images look.

    Attributes:
        value: maximum mean discrepancy of their tiny copies, 0 (alike) to about 1.
        chance: share of random divisions of all of them that are as far apart.
    """

    value: float
    chance: float


def check_shift(found: Survey, last: Reference | None, settings: Check) -> list[Result]:
    """Run every check against the last version; without one they are skipped."""
    if last is None:
        text = "there is no last version of this source to compare with"
        return [Result(name, "skipped", None, None, text) for name in ("fewer", "class_shift", "look_shift")]
    now = reference_of(found)
    results = [_fewer(now, last, settings), _classes(now, last, settings), _looks(now, last, settings)]
    added = np.flatnonzero(~np.isin(found.records["content"], last.content))
    return results + _added(sample_of(found, added), len(added), last, settings)


def population_stability(now: dict[str, int], last: dict[str, int]) -> float:
    """Compute the population stability index of two counts of classes.

    The sum over the classes of (p - q) ln(p / q), with the shares p and q of both: 0 for the same
    shares. Below 0.1 counts as stable, above 0.25 as another population.
    """
    names = sorted(now.keys() | last.keys())
    p, q = (np.array([counts.get(name, 0) + SMOOTHED for name in names]) for counts in (now, last))
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def look_distance(one: NDArray[np.uint8], other: NDArray[np.uint8], seed: int = 0) -> Distance:
    """Compute the maximum mean discrepancy of two sets of tiny copies, and its chance.

    The unbiased estimate with a Gaussian kernel, whose width is the median distance (Gretton et
    al., "A kernel two-sample test", JMLR 2012); divisions of all images at random give the null.

    Args:
        one: uint8 N x 8 x 8 x 3, N at least 2.
        other: uint8 M x 8 x 8 x 3, M at least 2.
        seed: draws the divisions.
    """
    n, m = len(one), len(other)
    rows = np.concatenate([one, other]).reshape(n + m, -1).astype(np.float64) / 255
    squares = (rows**2).sum(axis=1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0)
    width = np.median(apart[np.triu_indices(n + m, 1)])
    kernel = np.exp(-apart / max(width, 1e-12))
    np.fill_diagonal(kernel, 0)
    generator = np.random.default_rng(seed)
    sides = np.zeros((n + m, PERMUTATIONS + 1))
    sides[:n, 0] = 1
    for column in range(1, PERMUTATIONS + 1):
        sides[generator.permutation(n + m)[:n], column] = 1
    first = np.einsum("ik,ik->k", sides, kernel @ sides)
    second = np.einsum("ik,ik->k", 1 - sides, kernel @ (1 - sides))
    between = (kernel.sum() - first - second) / 2
    squared = first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * between / (n * m)
    chance = (1 + (squared[1:] >= squared[0]).sum()) / (PERMUTATIONS + 1)
    return Distance(float(np.sqrt(max(squared[0], 0.0))), float(chance))


def _fewer(now: Reference, last: Reference, settings: Check) -> Result:
    gone = max(0.0, 1 - now.images() / max(last.images(), 1))
    said = f"{now.images():,} images, {last.images():,} in the last version"
    return at_most("fewer", gone, settings.max_fewer, "max_fewer", said, f"is the source whole? {ACCEPT}")


def _classes(now: Reference, last: Reference, settings: Check) -> Result:
    if not sum(now.classes.values()) or not sum(last.classes.values()):
        return Result("class_shift", "skipped", None, None, "one of the two versions has no labels")
    shift = population_stability(now.classes, last.classes)
    shares = [{name: count / sum(counts.values()) for name, count in counts.items()} for counts in (now.classes, last.classes)]  # fmt: skip
    names = shares[0].keys() | shares[1].keys()
    most = max(sorted(names), key=lambda name: abs(shares[0].get(name, 0) - shares[1].get(name, 0)))
    said = f"classes moved by {shift:.3f} (stability index), most {most}: {percent(shares[1].get(most, 0))} to {percent(shares[0].get(most, 0))}"
    return at_most("class_shift", shift, settings.max_class_shift, "max_class_shift", said, ACCEPT)


def _looks(now: Reference, last: Reference, settings: Check) -> Result:
    if min(len(now.looks), len(last.looks)) < FEWEST:
        return Result("look_shift", "skipped", None, None, f"fewer than {FEWEST} images in one of the two versions")
    distance = look_distance(now.looks, last.looks)
    said = f"images look different by {distance.value:.3f} (p = {distance.chance:.3f})"
    value = distance.value if distance.chance < SURE else 0.0
    return at_most("look_shift", value, settings.max_look_shift, "max_look_shift", said, ACCEPT)


def _added(looks: NDArray[np.uint8], added: int, last: Reference, settings: Check) -> list[Result]:
    """Note new images that look different from the old ones: one may add a new kind on purpose."""
    if min(len(looks), len(last.looks)) < FEWEST:
        return []
    distance = look_distance(looks, last.looks)
    different = distance.chance < SURE and distance.value > settings.max_look_shift
    text = f"the {added:,} new images look different from the last version's by {distance.value:.3f} (p = {distance.chance:.3f})"
    return [Result("added_look_shift", "note" if different else "ok", distance.value, settings.max_look_shift, text)]
