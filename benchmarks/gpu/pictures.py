"""Shards of pictures made on the spot, by the library's own writers."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from moco.config import Shard, Split
from moco.images.decode import Pixels
from moco.shards.earlier import Earlier
from moco.shards.index import Piece, write_index
from moco.shards.tars import Origin, Segment, write_tar
from moco.sources.listing import Row

SHARD = Shard(
    samples_per_shard=10**6,
    merge_below=None,
    megabytes_per_shard=10**4,
    max_side=None,
    jpeg_quality=92,
    max_bad_fraction=0,
)
Pictures = Iterator[tuple[str, Pixels]]
"""Class and picture, uint8 H x W x 3, without end."""


def write(folder: Path, counts: Mapping[Split, int], pictures: Pictures, classes: list[str]) -> Path:
    """Write pictures as JPEGs into one tar for each split, with the index.

    Args:
        folder: made; receives the tars.
        counts: pictures of each split.
        pictures: where they come from.
        classes: names of the labels.
    """
    raw, notes = folder / "raw", folder / "notes"
    for each in (raw, notes):
        each.mkdir(parents=True)
    origin = Origin(raw, None, {name: label for label, name in enumerate(classes)}, SHARD)
    pieces: list[Piece] = []
    for split, images in counts.items():
        rows = []
        for number in range(images):
            label, pixels = next(pictures)
            quality = [cv2.IMWRITE_JPEG_QUALITY, SHARD.jpeg_quality]
            data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), quality)[1].tobytes()
            name = f"{split}-{number}.jpg"
            (raw / name).write_bytes(data)
            rows.append(Row(name, None, label, split, hashlib.sha256(data).hexdigest(), len(data)))
        tar = folder / f"{split}-000000.tar"
        (notes / f"{tar.name}.json").write_text(
            json.dumps(write_tar(tar, [Segment(rows, [origin] * len(rows))], lambda _: None))
        )
        pieces.append(Piece(split, tar.name, "", kept=False))
    write_index(folder, notes, classes, pieces, Earlier(folder))
    return folder


def patterns(side: int, classes: list[str]) -> Pictures:
    """Draw a pattern for each class, in another color, contrast and place each time."""
    random = np.random.default_rng(0)
    drawn = [cv2.resize(random.normal(0, 1, (6, 6)), (48, 48), interpolation=cv2.INTER_CUBIC) for _ in classes]
    for number in count():
        label = number % len(classes)
        width = int(random.integers(34, 49))
        top, left = random.integers(0, 49 - width, 2)
        part = drawn[label][top : top + width, left : left + width]
        pattern = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)[..., None]
        colored = random.uniform(50, 205, 3) + random.uniform(20, 50) * pattern
        yield classes[label], (colored + random.normal(0, 8, (side, side, 3))).clip(0, 255).astype(np.uint8)


def photographs() -> Pictures:
    """Draw what costs as much as a photograph of ImageNet: 500 x 375 with grain, about 100 kB."""
    random = np.random.default_rng(0)
    grain = random.normal(0, 14, (400, 524, 3)).astype(np.float32)
    while True:
        coarse = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        top, left = random.integers(0, 25, 2)
        noisy = smooth + grain[top : top + 375, left : left + 500]
        yield "all", noisy.clip(0, 255).astype(np.uint8)
