"""What a source finds: image files that stay where they are, or images as arrays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.sources.manifest import Part

Found = Iterator[tuple[str, str, Part]]
"""Files: path relative to the root, label or empty, part."""


@dataclass(frozen=True)
class Files:
    """Image files that stay where they are."""

    root: str
    """As the settings gave it, so that the manifest is the same on every machine."""
    walk: Callable[[], Found]
    """Streams the files."""
    classes: list[str] | None = None


@dataclass(frozen=True)
class Arrays:
    """Images that come as arrays; they are stored once, in one file."""

    parts: list[tuple[NDArray[np.uint8], NDArray[Any] | None, Part]]
    """(images N x H x W or N x H x W x 3, labels N or None, part)"""
    classes: list[str]
    root: None = None
