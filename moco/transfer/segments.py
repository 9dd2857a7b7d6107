"""Segments of instances in COCO's forms, packed into a few arrays, and their masks."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Segment = list[list[float]] | dict[str, Any]
"""COCO's: polygons [x0, y0, x1, y1, …] in pixels, or an RLE {"size": [h, w], "counts": str | list[int]}."""


class PackedSegments(Sequence[Segment]):
    """A list of segments whose polygons lie in one array.

    A million polygons as Python lists are gigabytes, and each process of a loader would come to copy
    them, since reading a Python object writes its reference count. Here they are 8 bytes a number, shared.
    """

    def __init__(self, segments: Iterable[Segment]) -> None:
        numbers: list[NDArray[np.float64]] = []
        ends, polygons = [0], [0]
        self._encoded: dict[int, dict[str, Any]] = {}
        for position, segment in enumerate(segments):
            if isinstance(segment, dict):
                self._encoded[position] = segment
            else:
                for polygon in segment:
                    numbers.append(np.asarray(polygon, np.float64))
                    ends.append(ends[-1] + len(polygon))
            polygons.append(len(ends) - 1)
        self._numbers = np.concatenate(numbers) if numbers else np.empty(0)
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


def mask_of(segment: Segment, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of a segment: uint8 height x width, 0 or 1; none for an empty list of polygons."""
    from pycocotools import mask

    if isinstance(segment, dict):
        encoded = mask.frPyObjects(segment, height, width) if isinstance(segment["counts"], list) else segment
    elif segment:
        encoded = mask.merge(mask.frPyObjects(segment, height, width))
    else:
        return np.zeros((height, width), np.uint8)
    return np.asarray(mask.decode(encoded))
