"""Annotated images as columns, for readers, loaders and metrics."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.errors import MocoError
from moco.files import file_sha256
from moco.transfer.data.segments import PackedSegments, Segment, mask_of, ranges

Id = int | float | str
"""An id in a JSON file, as the file states it."""


class Problem(NamedTuple):
    """Something wrong in a set: one line of its quarantine."""

    path: str
    """The file that shows it: an image, an XML or a JSON file."""
    reason: str
    of: Literal["image", "annotation"]
    """What it spoils."""
    stays: bool = False
    """Whether what it spoils is in the set all the same."""


@dataclass
class Federated:
    """What LVIS's annotators looked for in each image. Labels, not category ids.

    Attributes:
        frequency: of each class: "r", "c" or "f" (rare: in up to 10 training images, common: up to
            100, frequent).
        negative: of each image, the labels that are verified to be absent.
        not_exhaustive: of each image, the labels that have instances without annotation.
    """

    frequency: list[str]
    negative: list[list[int]]
    not_exhaustive: list[list[int]]


@dataclass
class AnnotatedSet:
    """N images with M instances, or with label maps, as columns: COCO has a million instances."""

    name: str
    """For messages: "VOC2007 test"."""
    classes: list[str]
    """Object classes, without background; label c is classes[c]."""
    ids: list[Id]
    """The source's own image ids, unique."""
    paths: list[Path]
    """Image files."""
    sizes: NDArray[np.int32]
    """[N, 2] height, width in pixels."""
    first: NDArray[np.int64]
    """[N + 1]; the instances of image n are first[n] … first[n + 1] - 1."""
    boxes: NDArray[np.float32]
    """[M, 4] x0, y0, x1, y1 in pixels, from 0, half-open. They may reach past the image and be
    empty: metrics take them as they are, and `moco.transfer.data.trainable` cuts them."""
    labels: NDArray[np.int64]
    """[M] 0 … C - 1."""
    areas: NDArray[np.floating[Any]]
    """[M] square pixels of the segment where there is one (as COCO states it), else of the box."""
    ignored: NDArray[np.bool_]
    """[M] crowd (COCO) or difficult (VOC): neither trained on nor evaluated."""
    annotation_ids: NDArray[Any]
    """[M] whole numbers, or objects if the file has others. Repeated where they are in the file."""
    segments: Sequence[Segment] | None = None
    """M segments in COCO's forms."""
    keypoints: NDArray[np.floating[Any]] | None = None
    """[M, K, 3] x, y, visibility: 0 not labelled, 1 hidden, 2 visible (COCO)."""
    num_keypoints: NDArray[np.int64] | None = None
    """[M] labelled keypoints as the file states them; None: those of `keypoints` are counted."""
    stated: NDArray[np.float64] | None = None
    """[M, 4] x, y, width, height, digit by digit as COCO's file states them; None: from `boxes`.
    Differences of corners are a little off, which decides whether an IoU of 0.5 is a match."""
    keypoint_names: list[str] = field(default_factory=list)
    flip_pairs: list[tuple[int, int]] = field(default_factory=list)
    """Keypoints that change places when the image is mirrored, each pair once."""
    label_maps: list[Path] | None = None
    """N 8-bit PNG files of class numbers, 255 = ignored (see `label_of_pixel`)."""
    semantic_classes: list[str] = field(default_factory=list)
    """VOC: background, then the classes. Cityscapes: the 19 classes that are trained and scored."""
    label_of_pixel: NDArray[np.uint8] | None = None
    """[256]: from the PNG's numbers to those of `semantic_classes` or 255; None: no change."""
    federated: Federated | None = None
    """LVIS: which classes were looked for in which image."""
    category_ids: list[Id] = field(default_factory=list)
    """COCO, LVIS: the category id of each class, for writing results."""
    problems: list[Problem] = field(default_factory=list)
    """What the checks found."""

    def __len__(self) -> int:
        return len(self.ids)

    def instances(self, n: int) -> slice:
        """Give the place of image n's instances in the columns."""
        return slice(int(self.first[n]), int(self.first[n + 1]))

    def masks(self, n: int) -> NDArray[np.uint8]:
        """Decode the masks of image n's instances: uint8 [instances, height, width], 0 or 1.

        Raises:
            ValueError: the set has no segments.
        """
        where, size = self.instances(n), self.sizes[n].tolist()
        masks = np.zeros((where.stop - where.start, *size), np.uint8)
        for mask, decoded in zip(masks, self.each_mask(n), strict=True):
            mask[:] = decoded
        return masks

    def each_mask(self, n: int) -> Iterator[NDArray[np.uint8]]:
        """Decode the masks of image n's instances one after the other, as `masks` gives them."""
        if self.segments is None:
            raise ValueError(f"{self.name} has no segments")
        for segment in self.segments[self.instances(n)]:
            yield mask_of(segment, *self.sizes[n].tolist())

    def label_map(self, n: int) -> NDArray[np.uint8]:
        """Read image n's label map: uint8 [height, width], numbers in `semantic_classes` or 255.

        Raises:
            MocoError: the PNG cannot be read, or has a number that is no class.
            ValueError: the set has no label maps.
        """
        if self.label_maps is None:
            raise ValueError(f"{self.name} has no label maps")
        path = self.label_maps[n]
        try:
            with Image.open(path) as file:
                numbers = np.array(file)  # of a palette image these are the indices; OpenCV would give colors
        except Exception as error:  # Pillow's plug-ins raise nearly every kind of error on broken files
            raise MocoError(f"{path}: cannot be read ({error}); download it again") from None
        if self.label_of_pixel is not None:
            numbers = self.label_of_pixel[numbers]
        known = len(self.semantic_classes)
        wrong = (numbers >= known) & (numbers != 255)
        if wrong.any():
            raise MocoError(
                f"{path}: number {numbers[wrong][0]}, but {self.name} has {known} classes from 0, and 255 for ignored"
                " pixels; name all classes, or correct the file"
            )
        return numbers

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> "AnnotatedSet":
        """Take the images at these positions, in this order, with all that belongs to them."""
        chosen = np.asarray(indices, np.int64)
        counts = np.diff(self.first)[chosen]
        rows = ranges(self.first[chosen], counts)
        federated = self.federated and replace(
            self.federated,
            negative=[self.federated.negative[n] for n in chosen],
            not_exhaustive=[self.federated.not_exhaustive[n] for n in chosen],
        )
        return replace(
            self,
            ids=[self.ids[n] for n in chosen],
            paths=[self.paths[n] for n in chosen],
            sizes=self.sizes[chosen],
            first=np.concatenate([[0], np.cumsum(counts)]),
            label_maps=self.label_maps and [self.label_maps[n] for n in chosen],
            federated=federated,
            **self._columns(rows),
        )

    def with_instances(self, kept: NDArray[np.bool_]) -> "AnnotatedSet":
        """Keep all images, and of the instances those whose place in `kept`, bool [M], is true."""
        rows = np.flatnonzero(kept)
        return replace(self, first=np.searchsorted(rows, self.first).astype(np.int64), **self._columns(rows))

    def _columns(self, rows: NDArray[np.integer[Any]]) -> dict[str, Any]:
        columns = ("boxes", "labels", "areas", "ignored", "annotation_ids", "keypoints", "num_keypoints", "stated")
        return {
            **{name: None if (column := getattr(self, name)) is None else column[rows] for name in columns},
            "segments": None if self.segments is None else _packed(self.segments).take(rows),
        }


def _packed(segments: Sequence[Segment]) -> PackedSegments:
    return segments if isinstance(segments, PackedSegments) else PackedSegments(segments)


def set_of_label_maps(
    *,
    name: str,
    ids: list[Id],
    paths: list[Path],
    label_maps: list[Path],
    semantic_classes: list[str],
    label_of_pixel: NDArray[np.uint8] | None = None,
) -> AnnotatedSet:
    """Build a set for semantic segmentation: no instances, and sizes of 0, which are not stated."""
    return AnnotatedSet(
        name=name,
        classes=[],
        ids=ids,
        paths=paths,
        sizes=np.zeros((len(ids), 2), np.int32),
        first=np.zeros(len(ids) + 1, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0, np.float32),
        ignored=np.zeros(0, bool),
        annotation_ids=np.zeros(0, np.int64),
        label_maps=label_maps,
        semantic_classes=semantic_classes,
        label_of_pixel=label_of_pixel,
    )


def data_hash(found: AnnotatedSet) -> str:
    """Hash everything that is annotated, as 64 hexadecimal digits: a run's name depends on it.

    The hash takes ids, file names and sizes of images, not their pixels, and the bytes of label
    maps. The folder and the name of the set do not matter.
    """
    federated = found.federated
    texts: list[Any] = [
        found.classes,
        found.category_ids,
        found.ids,
        [path.name for path in found.paths],
        found.keypoint_names,
        found.flip_pairs,
        found.semantic_classes,
        federated and [federated.frequency, federated.negative, federated.not_exhaustive],
        found.label_maps and [file_sha256(path) for path in found.label_maps],
    ]
    digest = hashlib.sha256(json.dumps(texts).encode())
    for column in (
        found.sizes.astype("<i4"),
        found.first.astype("<i8"),
        found.boxes.astype("<f4"),
        found.labels.astype("<i8"),
        found.areas.astype("<f4"),
        found.ignored.astype("u1"),
        np.empty(0) if found.annotation_ids.dtype == object else found.annotation_ids.astype("<i8"),
        np.empty(0) if found.keypoints is None else found.keypoints.astype("<f4"),
        np.empty(0) if found.label_of_pixel is None else found.label_of_pixel,
    ):
        digest.update(column.tobytes())
    if found.annotation_ids.dtype == object:
        digest.update(json.dumps(found.annotation_ids.tolist()).encode())
    if found.stated is not None:  # read from COCO's files, whose digits count
        for exact in (found.stated, found.areas, found.keypoints, found.num_keypoints):
            digest.update(b"" if exact is None else exact.astype("<f8").tobytes())
    if found.segments is not None:
        digest.update(_packed(found.segments).digest())
    return digest.hexdigest()


@dataclass
class Detections:
    """What a model found in a whole set, as columns of D detections."""

    image: NDArray[np.int64]
    """[D] position n in the `AnnotatedSet`."""
    boxes: NDArray[np.floating[Any]]
    """[D, 4] x0, y0, x1, y1 in pixels of the original image, from 0, half-open."""
    scores: NDArray[np.floating[Any]]
    """[D]"""
    labels: NDArray[np.int64]
    """[D] 0 … C - 1."""
    segments: list[dict[str, Any]] | None = None
    """D compressed RLEs."""
    keypoints: NDArray[np.floating[Any]] | None = None
    """[D, K, 3] x, y, score."""
