"""The images of a data set that are most like a given one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moco.encoders.frozen import FrozenEncoder
from moco.errors import MocoError
from moco.features.extract import Extractor, embed_images
from moco.features.neighbors import nearest
from moco.features.usable import OF_A_FILE, require_finite
from moco.images.batches import read_image
from moco.images.decode import Pixels, UndecodableError, decode, read_encoded
from moco.images.index import ShardSet


@dataclass(frozen=True)
class Similar:
    """An image of the data set.

    Attributes:
        key: its WebDataset key.
        label: the name of its class; empty without a label.
        similarity: cosine of its features and the given image's, in [-1, 1].
        pixels: uint8 H x W x 3.
    """

    key: str
    label: str
    similarity: float
    pixels: Pixels


def read_file(path: Path) -> Pixels:
    """Decode an image file, uint8 H x W x 3.

    Raises:
        MocoError: it cannot be read, or is no image.
    """
    try:
        return decode(read_encoded(path))
    except (OSError, UndecodableError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MocoError(f"{path}: {reason}; give an image file") from None


def most_similar(
    image: Pixels, split: ShardSet, encoder: FrozenEncoder, name: str, k: int, kept: Path, num_workers: int
) -> list[Similar]:
    """Find the images of a split whose features are most like an image's, best first.

    Args:
        image: uint8 H x W x 3.
        split: the images to search.
        encoder: frozen; its devices share the split's images.
        name: of the encoder, among those whose features are kept.
        k: how many to find.
        kept: folder of features, so that the second question about a split is answered at once.
            They are written as they come and read block by block: they may exceed the memory.
        num_workers: loader processes.

    Raises:
        MocoError: the split is empty.
    """
    if not len(split):
        raise MocoError(f"{split.folder}: its {split.split} split is empty; choose another with --split")
    extractor = Extractor(
        "neighbors", encoder.launch, name, encoder.spec.image_size, encoder.spec.eval_crop_ratio, num_workers, kept
    )
    gallery = extractor.center(split, np.arange(len(split)))
    require_finite(gallery, name, OF_A_FILE)
    rows, similarities = nearest(embed_images(encoder, [image]), gallery, k, encoder.devices)
    found = []
    for row, similarity in zip(rows[0].tolist(), similarities[0].tolist(), strict=True):
        label = int(split.labels[row])
        name = split.classes[label] if label >= 0 else ""
        found.append(Similar(split.key(row), name, similarity, read_image(split, row)))
    return found
