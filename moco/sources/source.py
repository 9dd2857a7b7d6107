"""What a source finds: image files that stay where they are, or images as arrays."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moco.config import Split
from moco.sources.splits import Part
from moco.sources.tree import LeftOut


class File(NamedTuple):
    """An image file as a source found it."""

    path: str
    """Relative to the root."""
    label: str = ""
    """Name of the class, empty if unlabelled."""
    part: Part = "all"
    group: str = ""
    """Files of one group stay in one split; empty: a file is a group by itself."""
    tar: str = ""
    """The tar that holds it, relative to the root; empty: none does."""
    place: tuple[int, int] | None = None
    """Offset and size of its bytes in that tar."""


def part_of(split: Split, own: Collection[Split]) -> Part:
    """Give the part of an image that lies in a split, where a source has some splits itself."""
    return "all" if split == "train" and "test" not in own else split


@dataclass(frozen=True)
class Files:
    """Image files that stay where they are."""

    root: str
    """As the settings gave it, so that the manifest is the same on every machine."""
    walk: Callable[[], Iterator[File]]
    """Streams the files."""
    classes: list[str] | None = None
    own: frozenset[Split] = frozenset()
    """The splits that the source has itself, beside train; the others are drawn."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What `walk` left out, once it has ended."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of how the source was read, a line each."""


ArrayPart = tuple[NDArray[np.uint8], NDArray[Any] | None, Part]


@dataclass(frozen=True)
class Arrays:
    """Images that come as arrays; they are stored once, in one file."""

    read: Callable[[], list[ArrayPart]]
    """Reads them: (images N x H x W or N x H x W x 3, labels N or None, part)."""
    classes: list[str]
    files: list[Path] = field(default_factory=list)
    """That hold the arrays: what is not read again while they stay as they are."""
    root: None = None
    own: frozenset[Split] = frozenset({"test"})

    @cached_property
    def parts(self) -> list[ArrayPart]:
        """The images, read when they are first asked for."""
        return self.read()
