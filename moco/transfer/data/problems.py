"""Checks of an annotated set before training: bad parts are left out and listed."""

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.errors import MocoError
from moco.files import write_text
from moco.transfer.data.annotations import AnnotatedSet, Problem
from moco.transfer.data.segments import Segment

ROUNDING = 1.0
"""Pixels that a box may reach past its image, by rounding or by counting from 1."""
IN_A_BATCH = 256  # files for a thread at a time: with single ones the threads would mostly hand work over


@dataclass(frozen=True)
class Checks:
    """How strictly a set is checked.

    Attributes:
        max_bad_fraction: largest share of bad annotations, and of bad images; above it the set is
            refused.
        quarantine: the file that lists what is bad, one JSON object a line with path and reason.
    """

    max_bad_fraction: float = 0.01
    quarantine: Path | None = None


DEFAULT = Checks()


class Listing:
    """Know which files exist, and list each folder only once."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def has(self, path: Path) -> bool:
        """Whether the file exists."""
        folder = path.parent
        if folder not in self._names:
            try:
                self._names[folder] = {file.name for file in folder.iterdir()}
            except OSError:
                self._names[folder] = set()
        return path.name in self._names[folder]


def checked(found: AnnotatedSet, problems: Sequence[Problem], checks: Checks) -> AnnotatedSet:
    """Leave bad images and annotations out of a set, and list them.

    Bad is an image whose file is missing, cannot be opened or has another size than stated, whose
    id is taken, or whose label map is missing, of another size or not of 8 bits; and an annotation
    whose id is taken or whose box has no area, is not finite or lies outside its image. A box that
    reaches more than `ROUNDING` past its image is cut there; one that reaches less is left as it
    is, because the official metrics compare with it. Each of these, and each of `problems`, is a
    line of the quarantine and counts as bad.

    Args:
        found: images in the order of the source. Sizes of 0 are not stated: they are taken from the
            files.
        problems: what the reader has already left out.
        checks: how much may be bad.

    Returns:
        What is left; its `problems` are the lines.

    Raises:
        MocoError: more than `max_bad_fraction` is bad, or no image is left.
    """
    lines = list(problems)
    images = len(found) + sum(problem.of == "image" for problem in problems)
    annotations = len(found.boxes) + sum(problem.of == "annotation" for problem in problems)
    found = _good_annotations(_good_images(found, lines), lines)
    lines.sort()
    if checks.quarantine is not None:
        text = "".join(json.dumps({"path": line.path, "reason": line.reason}) + "\n" for line in lines)
        checks.quarantine.parent.mkdir(parents=True, exist_ok=True)
        write_text(checks.quarantine, text)
    for kind, total in (("image", images), ("annotation", annotations)):
        bad = [line for line in lines if line.of == kind]
        if len(bad) > checks.max_bad_fraction * total:
            where = f" all are in {checks.quarantine};" if checks.quarantine else ""
            raise MocoError(
                f"{found.name}: {len(bad)} of {total} {kind}s ({len(bad) / total:.1%}) are bad, more than"
                f" max_bad_fraction = {checks.max_bad_fraction:g}: {bad[0].path}: {bad[0].reason};{where}"
                " correct them, or raise max_bad_fraction to leave them out"
            )
    if not len(found):
        raise MocoError(f"{found.name}: no image; check that the list and the folder belong together")
    return replace(found, problems=lines)


def _good_images(found: AnnotatedSet, lines: list[Problem]) -> AnnotatedSet:
    reasons: dict[int, Problem] = {}

    def bad(n: int, path: Path, reason: str) -> None:
        reasons.setdefault(n, Problem(str(path), reason, "image"))

    seen: set[int | str] = set()
    listing = Listing()
    for n, (name, path) in enumerate(zip(found.ids, found.paths, strict=True)):
        if name in seen:
            bad(n, path, f"image id {name!r} is listed twice")
        seen.add(name)
        if not listing.has(path):
            bad(n, path, "no such image")
        if found.label_maps is not None and not listing.has(found.label_maps[n]):
            bad(n, found.label_maps[n], "no such label map")
    sizes = found.sizes.copy()
    unstated = _any(sizes <= 0)
    opened = [n for n in range(len(found)) if n not in reasons]
    for n, true in zip(opened, headers([found.paths[n] for n in opened]), strict=True):
        if isinstance(true, str):
            bad(n, found.paths[n], true)
        elif unstated[n]:
            sizes[n] = true.height, true.width
        elif (true.height, true.width) != tuple(sizes[n].tolist()):
            stated = f"{sizes[n, 1]} x {sizes[n, 0]}"
            bad(n, found.paths[n], f"is {true.width} x {true.height} pixels, its annotation says {stated}")
    if found.label_maps is not None:
        maps = found.label_maps
        opened = [n for n in range(len(found)) if n not in reasons]
        for n, true in zip(opened, headers([maps[n] for n in opened]), strict=True):
            if isinstance(true, str):
                bad(n, maps[n], true)
            elif (true.height, true.width) != tuple(sizes[n].tolist()):
                stated = f"{sizes[n, 1]} x {sizes[n, 0]}"
                bad(n, maps[n], f"is {true.width} x {true.height} pixels, its image {stated}")
            elif true.mode not in ("P", "L"):
                bad(n, maps[n], f"has pixels of mode {true.mode}, not one 8-bit number each")
    lines += reasons.values()
    found = replace(found, sizes=sizes)
    return found.subset([n for n in range(len(found)) if n not in reasons]) if reasons else found


def _good_annotations(found: AnnotatedSet, lines: list[Problem]) -> AnnotatedSet:
    image = np.repeat(np.arange(len(found)), np.diff(found.first))
    boxes = found.boxes
    height, width = found.sizes[image].T
    limits = np.stack([width, height, width, height], axis=1).astype(np.float32)

    twice = np.ones(len(boxes), bool)
    twice[np.unique(found.annotation_ids, return_index=True)[1]] = False
    strange = _any(~np.isfinite(boxes))
    empty = _any(boxes[:, 2:] <= boxes[:, :2])
    outside = _any(boxes[:, :2] >= limits[:, :2]) | _any(boxes[:, 2:] <= 0)
    beyond = _any((boxes < -ROUNDING) | (boxes > limits + ROUNDING))
    dropped = twice | strange | empty | outside
    for row in np.flatnonzero(dropped | beyond).tolist():
        n = int(image[row])
        reason = (
            "its id is taken"
            if twice[row]
            else "its box is not finite"
            if strange[row]
            else "its box has no area"
            if empty[row]
            else "its box lies outside the image"
            if outside[row]
            else "its box reaches past the image and was cut there"
        )
        label = found.classes[int(found.labels[row])]
        corners = ", ".join(f"{value:g}" for value in boxes[row])
        size = f"{found.sizes[n, 1]} x {found.sizes[n, 0]}"
        reason = f"annotation {found.annotation_ids[row]} ({label}): {reason}: {corners} in {size}"
        lines.append(Problem(str(found.paths[n]), reason, "annotation"))
    cut = beyond & ~dropped
    if cut.any():
        areas, boxes = found.areas.copy(), boxes.copy()
        boxes[cut] = np.clip(boxes[cut], 0, limits[cut])
        if found.segments is None:
            areas[cut] = (boxes[cut, 2:] - boxes[cut, :2]).prod(axis=1)
        found = replace(found, boxes=boxes, areas=areas)
    return found.with_instances(~dropped) if dropped.any() else found


def _any(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(rows.any(axis=1))


@dataclass(frozen=True)
class Header:
    """The header of an image file."""

    height: int
    width: int
    mode: str
    """Pillow's: RGB, L, P, …"""


def headers(paths: Sequence[Path]) -> list[Header | str]:
    """Read the header of each image file; a text says why it cannot be read."""
    batches = [paths[start : start + IN_A_BATCH] for start in range(0, len(paths), IN_A_BATCH)]
    with ThreadPoolExecutor() as pool:
        return [header for batch in pool.map(_headers, batches) for header in batch]


def _headers(paths: Sequence[Path]) -> list[Header | str]:
    found: list[Header | str] = []
    for path in paths:
        try:
            with Image.open(path) as file:
                found.append(Header(file.height, file.width, file.mode))
        except Exception as error:  # Pillow's plug-ins raise nearly every kind of error on broken files
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            found.append(f"cannot be read ({reason})")
    return found


def good_segment(segment: Any, height: int, width: int) -> tuple[Segment, str | None]:
    """Keep the part of a segment that is in one of COCO's forms.

    Returns:
        The segment without polygons that have fewer than six numbers, an odd count or a number that
        is not finite, and what is wrong with it or None. It is empty if nothing is left, for
        example of an RLE of another size than the image's, or whose run lengths do not add up to
        it.
    """
    if isinstance(segment, dict):
        counts = segment.get("counts")
        if segment.get("size") != [height, width]:
            return [], f"its RLE is of size {segment.get('size')}, not {[height, width]}"
        if isinstance(counts, list) and sum(counts) != height * width:
            return [], f"its run lengths sum to {sum(counts)}, not {height} x {width}"
        if not isinstance(counts, list | str):
            return [], "its RLE has no counts"
        return segment, None
    if not isinstance(segment, list):
        return [], "its segmentation is neither polygons nor an RLE"
    good = [polygon for polygon in segment if _is_polygon(polygon)]
    if len(good) == len(segment):
        return segment, None
    return good, f"{len(segment) - len(good)} of its {len(segment)} polygons are not of three or more points"


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        return math.isfinite(sum(polygon))
    except TypeError:
        return False
