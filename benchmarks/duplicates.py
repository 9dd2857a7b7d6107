"""How many made twins are found, and how long hashing and searching take.

`python -m benchmarks.duplicates [--images N] SHARDS…` makes copies of the images of shard sets
(resized, recompressed, brightened, cropped, mirrored) and says which share is found by the hashes,
and by the hashes and small copies together. It then searches a million random hashes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from moco.config import SPLITS
from moco.duplicates.find import EMPTY
from moco.duplicates.likeness import Copies, reduced
from moco.duplicates.search import pairs_within
from moco.images.batches import read_image
from moco.images.decode import Pixels
from moco.images.index import open_split
from moco.images.jpeg import START
from moco.survey.measure import measure

DISTANCE, LEAST = 4, 0.99
LARGEST = 512
"""Pixels of the shorter side of the originals: larger images are reduced to it first."""
HASHES = 1_000_000


def scaled(share: float) -> Callable[[Pixels], Pixels]:
    """Reduce the sides to a share of theirs."""

    def made(image: Pixels) -> Pixels:
        return np.asarray(cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), np.uint8)

    return made


def recompressed(quality: int) -> Callable[[Pixels], Pixels]:
    """Store as JPEG and decode."""

    def made(image: Pixels) -> Pixels:
        stored = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        assert stored[:2].tobytes() == START
        return cv2.imdecode(stored, cv2.IMREAD_COLOR).astype(np.uint8)  # type: ignore[union-attr]

    return made


def cropped(share: float) -> Callable[[Pixels], Pixels]:
    """Cut a share of both sides off, at a random place."""
    generator = np.random.default_rng(0)

    def made(image: Pixels) -> Pixels:
        height, width = (max(1, round(side * (1 - share))) for side in image.shape[:2])
        top, left = (generator.integers(0, all_ - kept + 1) for all_, kept in zip(image.shape, (height, width), strict=False))  # fmt: skip
        return np.ascontiguousarray(image[top : top + height, left : left + width])

    return made


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "half the sides": scaled(0.5),
    "a quarter of the sides": scaled(0.25),
    "JPEG of quality 75": recompressed(75),
    "JPEG of quality 30": recompressed(30),
    "10 % brighter": lambda image: np.clip(image * 1.1, 0, 255).astype(np.uint8),
    "5 % of the sides cropped": cropped(0.05),
    "10 % cropped": cropped(0.1),
    "20 % cropped": cropped(0.2),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


def originals(shards: Path, most: int) -> list[Pixels]:
    """Read up to `most` images, without plain areas and images whose hash is there already."""
    found: list[Pixels] = []
    for images in (open_split(shards, split) for split in SPLITS):
        step = max(1, len(images) * len(SPLITS) // most)
        found += [np.array(reduced(read_image(images, i), LARGEST)) for i in range(0, len(images), step)]
    records = measure(((b"", image) for image in found), len(found))
    _, first = np.unique(records["hash"], return_index=True)
    return [found[i] for i in sorted(first) if records["contrast"][i] >= EMPTY][:most]


def recall(images: list[Pixels]) -> None:
    """Print the share of made twins that is found, and what else is."""
    judge, count = Copies(), len(images)
    began = time.process_time()
    before = measure(((b"", image) for image in images), count)
    print(f"{count} images; hash and statistics {1e3 * (time.process_time() - began) / count:.2f} ms of a core each")
    vectors, false = judge.vectors(images), 0
    for name, change in COPIES.items():
        copies = [change(image) for image in images]
        after = measure(((b"", image) for image in copies), count)
        turned = name == "mirrored"
        hashes = after["mirrored" if turned else "hash"]
        others = judge.vectors([np.ascontiguousarray(copy[:, ::-1]) for copy in copies] if turned else copies)
        near = np.bitwise_count(before["hash"][:, None] ^ hashes[None]) <= DISTANCE
        alike = near & (vectors @ others.T >= LEAST)
        false += int(alike.sum() - np.diag(alike).sum())
        print(f"{name:<26} hash {np.diag(near).mean():.3f}  and likeness {np.diag(alike).mean():.3f}")
    print(f"pairs of different originals that count: {false} in {len(COPIES)} x {count} x {count - 1}")


def search() -> None:
    """Print the seconds of a search among random hashes."""
    hashes = np.random.default_rng(0).integers(0, 2**64, HASHES, dtype=np.uint64)
    pairs_within(DISTANCE, hashes[:10])  # compiled
    for distance in (3, DISTANCE):
        wall, cpu = time.perf_counter(), time.process_time()
        found = len(pairs_within(distance, hashes).i)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{HASHES:,} hashes, distance {distance}: {found} pairs, {wall:.1f} s, {cpu:.1f} s of processor time")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__)
    parser.add_argument("shards", type=Path, nargs="*", help="folders of shards")
    parser.add_argument("--images", type=int, default=800, help="of each (default: 800)")
    options = parser.parse_args()
    for shards in options.shards:
        print(shards)
        recall(originals(shards, options.images))
    search()


if __name__ == "__main__":
    main()
