"""Checks of one version of a data set by itself."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.checks.result import Result, share_at_most
from moco.config import SPLITS, Check
from moco.duplicates.find import EMPTY, Duplicates, crossings
from moco.survey.run import Survey

EXAMPLES = 3
"""Images that a failed check names."""
ODD: dict[str, str] = {
    "small": "have a side of less than check.min_side pixels",
    "long": "are longer than check.max_aspect times their width, or wider",
    "dark": "are dark all over",
    "bright": "are bright all over",
    "blurred": "are blurred",
    "empty": "are one plain area",
}
"""What an odd image is, by the name of its check."""


@dataclass(frozen=True)
class Looked:
    """What the checks look at.

    Attributes:
        found: the images.
        duplicates: among them.
        quarantined: files that sharding left out, of those whose names claim an image.
    """

    found: Survey
    duplicates: Duplicates
    quarantined: int


def check_images(looked: Looked, settings: Check) -> list[Result]:
    """Run every check that needs no other version."""
    return [check(looked, settings) for check in CHECKS] + odd(looked, settings)


def enough(looked: Looked, settings: Check) -> Result:
    """Compare the number of training images with the least."""
    images = len(looked.found.splits["train"])
    said = f"{images:,} training images"
    if images >= settings.min_images:
        return Result("images", "ok", images, settings.min_images, said)
    text = f"{said}, fewer than check.min_images = {settings.min_images}; is the source whole?"
    return Result("images", "failed", images, settings.min_images, text)


def quarantine(looked: Looked, settings: Check) -> Result:
    """Compare the share of unreadable images with the largest."""
    files = looked.quarantined + len(looked.found)
    said = f"{looked.quarantined:,} of {files:,} files could not be read"
    remedy = "data/shards/quarantine.jsonl names them: repair or remove them"
    return share_at_most("quarantine", looked.quarantined, files, settings.max_quarantine, said, remedy)


def duplicates(looked: Looked, settings: Check) -> Result:
    """Compare the share of images that are there more than once with the largest."""
    again, remedy = looked.duplicates.redundant, "outputs/check/pairs.csv names them"
    said = f"{again:,} images are there already, exactly or nearly"
    return share_at_most("duplicates", again, len(looked.found), settings.max_duplicates, said, remedy)


def crossing(looked: Looked, settings: Check) -> Result:
    """Compare the share of validation and test images with a twin in an earlier split."""
    counts, held_out = crossings(looked.found, looked.duplicates), sum(len(looked.found.splits[s]) for s in SPLITS[1:])
    count, remedy = (
        len(looked.duplicates.crossing),
        "outputs/check/groups.csv has the groups that belong into one split",
    )
    where = "; ".join(f"{one}–{other} {number}" for (one, other), number in sorted(counts.items()))
    said = f"{count:,} validation and test images have a twin in an earlier split{f': {where}' if where else ''}"
    return share_at_most("crossing", count, held_out, settings.max_crossing, said, remedy)


def odd(looked: Looked, settings: Check) -> list[Result]:
    """Compare the share of each kind of odd image with the largest."""
    found, results = looked.found, []
    for name, which in odd_ones(found, settings).items():
        said = f"{len(which):,} images {_filled(ODD[name], settings)}"
        remedy = f"see {', '.join(found.key(int(image)) for image in which[:EXAMPLES])}"
        limit = getattr(settings, f"max_{name}")
        results.append(share_at_most(name, len(which), len(found), limit, said, remedy))
    return results


def odd_ones(found: Survey, settings: Check) -> dict[str, NDArray[np.int64]]:
    """Find the odd images of each kind: their numbers, ascending, by the name of the check.

    An image that is one plain area is `empty`, and neither dark nor bright nor blurred.
    """
    records = found.records
    short, long = np.minimum(records["height"], records["width"]), np.maximum(records["height"], records["width"])
    empty = records["contrast"] < EMPTY
    kinds = {
        "small": short < settings.min_side,
        "long": long > settings.max_aspect * short,
        "dark": (records["bright"] < settings.dark_below) & ~empty,
        "bright": (records["dark"] > settings.bright_above) & ~empty,
        "blurred": (records["sharpness"] < settings.sharp_from) & ~empty,
        "empty": empty,
    }
    return {name: np.flatnonzero(which) for name, which in kinds.items()}


def _filled(text: str, settings: Check) -> str:
    for setting in ("min_side", "max_aspect"):
        text = text.replace(f"check.{setting}", f"{getattr(settings, setting):g}")
    return text


CHECKS: tuple[Callable[[Looked, Check], Result], ...] = (enough, quarantine, duplicates, crossing)
