"""Segments of instances in COCO's forms, packed into a few arrays, and their masks."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Segment = list[list[float]] | dict[str, Any]
"""COCO's: polygons [x0, y0, x1, y1, …], or an RLE {"size": [h, w], "counts": str | list[int]}."""


class PackedSegments(Sequence[Segment]):
    """A list of segments whose polygons lie in one array.

    A million polygons as Python lists are gigabytes, and each process of a loader would copy them,
    since reading a Python object writes its reference count. Here they take 8 bytes a number,
    shared by all processes.
    """

    def __init__(self, segments: Iterable[Segment]) -> None:
        numbers = array("d")
        ends, polygons = [0], [0]
        self._encoded: dict[int, dict[str, Any]] = {}
        for position, segment in enumerate(segments):
            if isinstance(segment, dict):
                self._encoded[position] = segment
            else:
                for polygon in segment:
                    numbers.extend(polygon)
                    ends.append(len(numbers))
            polygons.append(len(ends) - 1)
        self._numbers = np.array(numbers)
        self._ends = np.array(ends, np.int64)  # of polygons in the numbers
        self._polygons = np.array(polygons, np.int64)  # of segments in the polygons

    def __len__(self) -> int:
        return len(self._polygons) - 1

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | list[Segment]:
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        position = range(len(self))[index]
        if position in self._encoded:
            return self._encoded[position]
        first, last = self._polygons[position : position + 2].tolist()
        ends = self._ends[first : last + 1].tolist()
        return [self._numbers[a:b].tolist() for a, b in pairwise(ends)]

    def take(self, rows: NDArray[np.integer[Any]]) -> "PackedSegments":
        """Take the segments at these positions, in this order."""
        chosen = PackedSegments(())
        polygons = np.diff(self._polygons)[rows]
        which = ranges(self._polygons[rows], polygons)
        lengths = np.diff(self._ends)[which]
        chosen._numbers = self._numbers[ranges(self._ends[which], lengths)]
        chosen._ends = np.concatenate([[0], np.cumsum(lengths)])
        chosen._polygons = np.concatenate([[0], np.cumsum(polygons)])
        positions = enumerate(rows.tolist())
        chosen._encoded = {new: self._encoded[old] for new, old in positions if old in self._encoded}
        return chosen

    def present(self) -> NDArray[np.bool_]:
        """Find the segments that are not empty: bool [M]."""
        found = np.diff(self._polygons) > 0
        found[list(self._encoded)] = True
        return found

    def digest(self) -> bytes:
        """Give the SHA-256 of all segments."""
        digest = hashlib.sha256(json.dumps(list(self._encoded.items()), default=bytes.decode).encode())
        for column in (self._numbers.astype("<f8"), self._ends.astype("<i8"), self._polygons.astype("<i8")):
            digest.update(column.tobytes())
        return digest.digest()


def present(segments: Sequence[Segment]) -> NDArray[np.bool_]:
    """Find the segments that are not empty: bool [M]."""
    if isinstance(segments, PackedSegments):
        return segments.present()
    return np.array([bool(segment) for segment in segments], bool)


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges start, start + 1, … of these counts."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)


def encoded(segment: Segment, height: int, width: int) -> dict[str, Any]:
    """Encode a segment as one compressed RLE; its polygons may overlap.

    Raises:
        ValueError, TypeError: it is none of COCO's forms.
    """
    from faster_coco_eval.core import mask

    if not isinstance(segment, dict):
        merged: dict[str, Any] = mask.merge(mask.frPyObjects(segment, height, width))
        return merged
    if isinstance(segment["counts"], list):
        compressed: dict[str, Any] = mask.frPyObjects(segment, height, width)
        return compressed
    return segment


def encode(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> dict[str, Any]:
    """Encode a mask, height x width, as a compressed RLE that JSON can hold."""
    from faster_coco_eval.core import mask as coco

    found: dict[str, Any] = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def mask_of(segment: Segment, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a segment: uint8 height x width, 0 or 1; all 0 for an empty list of polygons."""
    from faster_coco_eval.core import mask

    if not segment:
        return np.zeros((height, width), np.uint8)
    return np.asarray(mask.decode(encoded(segment, height, width)))


def area_of(segment: Segment, height: int, width: int) -> float:
    """Count the pixels of a segment."""
    from faster_coco_eval.core import mask

    return float(mask.area(encoded(segment, height, width))) if segment else 0.0
