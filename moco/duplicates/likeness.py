"""How alike two images are: the cosine of an encoder's features, or of small copies without one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moco.cores import cores
from moco.encoders.frozen import FrozenEncoder
from moco.features.extract import embed_images
from moco.images.batches import read_image
from moco.images.decode import Pixels
from moco.images.views import resize
from moco.survey.run import Survey

SIDE = 32
"""Of the small copies, in pixels."""
AT_ONCE = 4096
"""Images whose vectors are computed in one piece, and pairs that are compared in one."""
Numbers = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Judge(Protocol):
    """Turns images into unit vectors whose product is their likeness."""

    @property
    def name(self) -> str:
        """What decides, in words that continue "the likeness is …"."""

    @property
    def rough(self) -> float:
        """The least correlation of the 8 x 8 copies of pairs that are worth decoding."""

    @property
    def pairs_at_once(self) -> int:
        """Pairs whose images' vectors may be in memory together."""

    def vectors(self, images: list[Pixels]) -> Vectors:
        """Compute the vectors of images (uint8 H x W x 3): float32 N x D, of length 1."""


class Copies:
    """Small RGB copies, without their mean: the cosine is the correlation of the two.

    It knows resized and recompressed copies, and hardly cropped ones.
    """

    name = f"the correlation of {SIDE} x {SIDE} copies"
    rough = 0.96
    pairs_at_once = 16_384

    def vectors(self, images: list[Pixels]) -> Vectors:
        """Compute the vectors, float32 N x 3072."""
        flat = np.stack([resize(image, SIDE, SIDE).ravel() for image in images]).astype(np.float32)
        return unit(flat - flat.mean(axis=1, keepdims=True))


class Features:
    """The features of an encoder: what it was trained to ignore does not count."""

    rough = 0.9
    pairs_at_once = 131_072

    def __init__(self, encoder: FrozenEncoder, name: str) -> None:
        self.encoder, self.name = encoder, f"the cosine of features of {name}"

    def vectors(self, images: list[Pixels]) -> Vectors:
        """Compute the vectors, float32 N x D, of center views."""
        return unit(embed_images(self.encoder, images))


def unit(vectors: Vectors) -> Vectors:
    """Bring rows to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def likeness(judge: Judge, found: Survey, i: Numbers, j: Numbers, mirrored: bool) -> NDArray[np.float32]:
    """Compute how alike the images of pairs are, float32 [P].

    Every image is decoded once, or twice where mirror images are compared.

    Args:
        judge: decides.
        found: the images.
        i: int64 [P], the first of each pair.
        j: int64 [P], the second.
        mirrored: compare the mirror image of the first.
    """
    if not len(i):
        return np.zeros(0, np.float32)
    numbers, rows = np.unique(np.concatenate([i, j]), return_inverse=True)
    first, second = rows[: len(i)], rows[len(i) :]
    straight = _all_vectors(judge, found, numbers, turned=False)
    other = _all_vectors(judge, found, numbers, turned=True) if mirrored else straight
    pieces = range(0, len(i), AT_ONCE)
    return np.concatenate(
        [np.einsum("pd,pd->p", other[first[at : at + AT_ONCE]], straight[second[at : at + AT_ONCE]]) for at in pieces]
    )


def _all_vectors(judge: Judge, found: Survey, numbers: Numbers, turned: bool) -> Vectors:
    return np.concatenate([judge.vectors(images) for images in _decoded(found, numbers, turned)])


def _decoded(found: Survey, numbers: Numbers, turned: bool) -> Iterator[list[Pixels]]:
    """Decode images in threads, reduced to what a judge may need; some hundred at a time."""

    def one(number: int) -> Pixels:
        split, i = found.place(number)
        image = reduced(read_image(found.splits[split], i))
        return np.ascontiguousarray(image[:, ::-1]) if turned else image

    with ThreadPoolExecutor(cores()) as pool:
        for part in np.array_split(numbers, -(-len(numbers) // 512)):
            yield list(pool.map(one, part.tolist()))


def reduced(image: Pixels, side: int = 320) -> Pixels:
    """Reduce an image whose shorter side is longer than `side`: no encoder looks at more."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    return image if scale >= 1 else resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
