"""Checks of segments in COCO's forms, so that no mask fails, or fills the memory, in training."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.transfer.data.segments import Segment

REACH = 2_000_000
"""Pixels that a polygon's corners may be away from the image's corner, and that its outline may be
long. Painting a polygon takes 40 bytes for each pixel of its outline, in the image or not."""
DIGITS = 7
"""Characters of the longest number in a compressed RLE: 35 bits."""
AGAIN = "encode its mask again"


def good_segment(segment: Any, height: int, width: int) -> tuple[Segment, str | None]:
    """Keep the part of a segment that is in one of COCO's forms.

    Returns:
        The segment without polygons that have fewer than six numbers, an odd count, a number that
        is not finite or corners absurdly far away (`REACH`), and what is wrong with it or None. It
        is empty if nothing is left, for example of an RLE of another size than the image's, that
        cannot be decoded, or whose run lengths are not whole numbers that add up to the image.
    """
    if isinstance(segment, dict):
        flaw = _flaw_of_runs(segment, height, width)
        return ([], flaw) if flaw else ({"size": [height, width], "counts": segment["counts"]}, None)
    if not isinstance(segment, list):
        return [], f"its segmentation is {_short(segment)}, neither polygons nor an RLE; {AGAIN}"
    flaws = [_flaw_of_polygon(polygon) for polygon in segment]
    good = [polygon for polygon, flaw in zip(segment, flaws, strict=True) if flaw is None]
    if len(good) == len(segment):
        return segment, None
    first = next(flaw for flaw in flaws if flaw)
    return good, f"{len(segment) - len(good)} of its {len(segment)} polygons left out: {first}; correct its corners"


def _flaw_of_polygon(polygon: Any) -> str | None:
    if not isinstance(polygon, list):
        return f"{_short(polygon)} is no list of corners"
    if len(polygon) < 6:
        return f"{_short(polygon)} is not of three or more corners"
    if len(polygon) % 2:
        return f"{_short(polygon)} has {len(polygon)} numbers, an x without its y"
    try:
        finite, low, high = math.isfinite(sum(polygon)), min(polygon), max(polygon)
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        return f"{_short(polygon)} is not of finite numbers"
    farthest = high if high >= -low else low
    if not -REACH <= farthest <= REACH:
        return f"it reaches to pixel {farthest:g}, more than {REACH:,} away"
    if len(polygon) * (high - low) > REACH:  # else its outline is shorter, without counting
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        outline = float(np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum())
        if outline > REACH:
            return f"its outline is {outline:,.0f} pixels long, more than {REACH:,}"
    return None


def _flaw_of_runs(segment: dict[str, Any], height: int, width: int) -> str | None:
    """Why an RLE is no mask of the image, or None."""
    counts = segment.get("counts")
    if segment.get("size") != [height, width]:
        return f"its RLE is of size {segment.get('size')!r:.40}, not {[height, width]}; {AGAIN}"
    if isinstance(counts, str):
        runs = _decompressed(counts)
        if isinstance(runs, str):
            return f"its RLE {_short(counts)} {runs}; {AGAIN}"
        negative, total = runs.min(initial=0), int(runs.sum())
    elif isinstance(counts, list):
        odd = next((count for count in counts if type(count) is not int), None)
        if odd is not None:
            return f"its run length {_short(odd)} is no whole number; {AGAIN}"
        negative, total = min(counts, default=0), sum(counts)
    else:
        return f"its RLE has no counts, but {_short(counts)}; {AGAIN}"
    if negative < 0:
        return f"its run length {negative} is negative; {AGAIN}"
    return None if total == height * width else f"its run lengths sum to {total}, not {height} x {width}; {AGAIN}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _decompressed(counts: str) -> NDArray[np.int64] | str:
    """Run lengths of a compressed RLE; a text says why it is none.

    A character holds five bits of a number, the lowest first, and whether more follow. From the
    fourth on, a number is the difference from the last but one.
    """
    codes = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - ord("0")
    if ((codes < 0) | (codes > 63)).any():
        stranger = next(character for character in counts if not "0" <= character <= "o")
        return f"has the character {stranger!r}, which is none of an RLE's"
    ends = np.flatnonzero(codes < 32)
    if not len(ends) or ends[-1] != len(codes) - 1:
        return "ends within a number"
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > DIGITS:
        return f"has a number of {lengths.max()} characters, more than {DIGITS}"
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= (codes[ends] >> 4 & 1) << (5 * lengths)  # two's complement
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
