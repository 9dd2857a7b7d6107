"""What is remembered of a version, so that the next one can be compared with it."""

import io
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.config import SPLITS
from moco.survey.run import Survey

FORMAT = 1
ROWS = 1000
"""Tiny copies that are kept."""


@dataclass(frozen=True)
class Reference:
    """A version in a few numbers.

    Attributes:
        data_hash: of the shard set.
        splits: images of train, val and test.
        classes: labelled images of each class, over all splits.
        content: uint64, ascending: the contents that are there, 8 bytes of SHA-256 each.
        looks: uint8, up to `ROWS` x 8 x 8 x 3: tiny copies of those with the smallest contents,
            a choice that new images change little.
    """

    data_hash: str
    splits: dict[str, int]
    classes: dict[str, int]
    content: NDArray[np.uint64]
    looks: NDArray[np.uint8]

    def images(self) -> int:
        """Count the images of all splits."""
        return sum(self.splits.values())


def reference_of(found: Survey) -> Reference:
    """Take what is to be remembered of a version."""
    first, labels = found.splits[SPLITS[0]], found.labels
    counts = np.bincount(labels[labels >= 0], minlength=len(first.classes))
    return Reference(
        data_hash=first.data_hash,
        splits={split: len(images) for split, images in found.splits.items()},
        classes=dict(zip(first.classes, counts.tolist(), strict=True)),
        content=np.unique(found.records["content"]),
        looks=sample_of(found, np.arange(len(found))),
    )


def sample_of(found: Survey, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Take the tiny copies of those images whose contents are the smallest: R x 8 x 8 x 3."""
    records = found.records[numbers]
    return records["look"][np.argsort(records["content"], kind="stable")[:ROWS]]


def to_bytes(reference: Reference) -> bytes:
    """Write a reference as .npz, the same bytes for the same version."""
    about = {
        "format": FORMAT,
        "data_hash": reference.data_hash,
        "splits": reference.splits,
        "classes": reference.classes,
    }
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(file, about=text, content=reference.content, looks=reference.looks)
    return file.getvalue()


def from_bytes(data: bytes) -> Reference | None:
    """Read a reference; None: it is damaged or of another format, and nothing can be compared."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            about = json.loads(bytes(file["about"]))
            if about.pop("format") != FORMAT:
                return None
            return Reference(content=file["content"], looks=file["looks"], **about)
    except Exception:  # zipfile, numpy and json raise one of many kinds
        return None
