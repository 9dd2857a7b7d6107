"""Checks of an annotated set before training: bad parts are left out and listed."""

import json
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
from moco.images.decode import UndecodableError, orientation_of, require_size
from moco.transfer.data.annotations import AnnotatedSet, Id, Problem

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
        tested: nobody trains on the set. A box without an area or beyond its image is then no
            problem: metrics take it as it is.
    """

    max_bad_fraction: float = 0.01
    quarantine: Path | None = None
    tested: bool = False


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
    EXIF orientation may or may not be that of its annotations, whose id is taken, or whose label
    map is missing, of another size or not of 8 bits; and an annotation whose box is not finite.
    These are left out.

    An annotation whose id is repeated, or whose box has no area, lies outside its image or reaches
    more than `ROUNDING` past it, is bad too and stays, because the official metrics count it as it
    is; `moco.transfer.data.trainable` cuts boxes and leaves the others out. Each of these,
    and each of `problems`, is a line of the quarantine and counts as bad.

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
    annotations = len(found.boxes) + sum(problem.of == "annotation" and not problem.stays for problem in problems)
    found = _good_annotations(_good_images(found, lines), lines, checks.tested)
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

    seen: set[Id] = set()
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
    shown: dict[int, Header] = {}
    opened = [n for n in range(len(found)) if n not in reasons]
    for n, true in zip(opened, headers([found.paths[n] for n in opened]), strict=True):
        if isinstance(true, str):
            bad(n, found.paths[n], true)
        elif found.label_maps is not None and true.orientation > 1:
            shown[n] = true
        elif reason := true.disagrees((0, 0) if unstated[n] else tuple(sizes[n].tolist())):
            bad(n, found.paths[n], reason)
        if not isinstance(true, str) and unstated[n]:
            sizes[n] = true.height, true.width
    if found.label_maps is not None:
        maps = found.label_maps
        opened = [n for n in range(len(found)) if n not in reasons]
        for n, true in zip(opened, headers([maps[n] for n in opened]), strict=True):
            if isinstance(true, str):
                bad(n, maps[n], true)
                continue
            if n in shown:  # its label map is its annotation, and tells in which position it was made
                if reason := shown[n].disagrees((true.height, true.width)):
                    bad(n, found.paths[n], reason)
                sizes[n] = true.height, true.width
            if (true.height, true.width) != tuple(sizes[n].tolist()):
                stated = f"{sizes[n, 1]} x {sizes[n, 0]}"
                bad(n, maps[n], f"is {true.width} x {true.height} pixels, its image {stated}")
            elif true.mode not in ("P", "L"):
                bad(n, maps[n], f"has pixels of mode {true.mode}, not one 8-bit number each")
    lines += reasons.values()
    found = replace(found, sizes=sizes)
    return found.subset([n for n in range(len(found)) if n not in reasons]) if reasons else found


def _good_annotations(found: AnnotatedSet, lines: list[Problem], tested: bool) -> AnnotatedSet:
    image, boxes = image_of_each(found), found.boxes
    limits = limits_of(found)
    strange = _any(~np.isfinite(boxes))
    flaws = {
        "its box is not finite; correct it": strange,
        "its id is repeated: the last object of this id counts each time, and is trained on once; give each its own id": repeated(
            found.annotation_ids
        ),
    }
    if not tested:
        flaws |= {
            "its box has no area and is not trained on; correct or remove it": _any(boxes[:, 2:] <= boxes[:, :2]),
            "its box lies outside the image and is not trained on; correct or remove it": _any(
                boxes[:, :2] >= limits[:, :2]
            )
            | _any(boxes[:, 2:] <= 0),
            "its box reaches past the image and is cut there for training; correct it": beyond(found),
        }
    listed = np.zeros(len(boxes), bool)
    for reason, rows in flaws.items():
        for row in np.flatnonzero(rows & ~listed).tolist():  # an annotation's first flaw
            n = int(image[row])
            label = found.classes[int(found.labels[row])]
            corners = ", ".join(f"{value:g}" for value in boxes[row])
            size = f"{found.sizes[n, 1]} x {found.sizes[n, 0]}"
            called = f"annotation {found.annotation_ids[row]} ({label})"
            text = f"{called}: {corners} in {size}: {reason}"
            lines.append(Problem(str(found.paths[n]), text, "annotation", stays=not strange[row]))
        listed |= rows
    return found.with_instances(~strange) if strange.any() else found


def image_of_each(found: AnnotatedSet) -> NDArray[np.int64]:
    """Give the image of each instance, by its place in the set."""
    return np.repeat(np.arange(len(found)), np.diff(found.first))


def limits_of(found: AnnotatedSet) -> NDArray[np.float32]:
    """Give the largest corners that each box may have: [M, 4] width, height, width, height."""
    return np.tile(found.sizes[image_of_each(found)][:, ::-1], 2).astype(np.float32)


def beyond(found: AnnotatedSet) -> NDArray[np.bool_]:
    """Find the boxes that reach more than `ROUNDING` past their image: bool [M]."""
    return _any((found.boxes < -ROUNDING) | (found.boxes > limits_of(found) + ROUNDING))


def repeated(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the ids that occurred before: bool [M]."""
    first: dict[Id, int] = {}
    for row, name in enumerate(ids.tolist()):
        first.setdefault(name, row)
    found = np.ones(len(ids), bool)
    found[list(first.values())] = False
    return found


def _any(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(rows.any(axis=1))


@dataclass(frozen=True)
class Header:
    """The header of an image file."""

    height: int
    width: int
    mode: str
    """Pillow's: RGB, L, P, …"""
    orientation: int
    """EXIF's, 1 … 8; the height and width are those before a turn."""

    def disagrees(self, size: tuple[int, ...]) -> str | None:
        """Say why annotations for this height and width cannot be used, or None.

        A turned image whose sides tell nothing could be annotated in either position.
        """
        sides = self.height, self.width
        if self.orientation >= 5 and self.height != self.width and size == sides[::-1]:
            return None  # annotated as it is shown: `read_pixels` turns it
        if all(size) and size != sides:
            return f"is {self.width} x {self.height} pixels, its annotation says {size[1]} x {size[0]}" + (
                f" (its EXIF orientation is {self.orientation})" if self.orientation > 1 else ""
            )
        if self.orientation > 1 and not (all(size) and self.orientation >= 5 and self.height != self.width):
            return (
                f"has EXIF orientation {self.orientation}, and nothing tells whether it was annotated as stored or as"
                " turned; turn its pixels, or remove the tag"
            )
        return None


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
                require_size(file.format, file.width, file.height)
                found.append(Header(file.height, file.width, file.mode, orientation_of(file)))
        except UndecodableError as error:
            found.append(str(error))
        except Exception as error:  # Pillow's plug-ins raise nearly every kind of error on broken files
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            found.append(f"cannot be read ({reason})")
    return found
