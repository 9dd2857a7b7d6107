"""Random annotated sets with random detections: ties, crowds, empty images and classes."""

from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask

from moco.transfer.data.annotations import AnnotatedSet, Detections, Federated

HEIGHT, WIDTH = 120, 160
IMAGES, CLASSES = 12, 5
CROWDED = 2
"""The image that has 130 detections of one class."""


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """[count, 4] whole pixels, half-open, inside the image."""
    sides = random.integers(2, (100, 80), (count, 2))
    low = random.integers(0, np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([low, low + sides], axis=1).astype(np.float32)


def ellipse(box: np.ndarray) -> np.ndarray:
    """The pixels of the ellipse in a box."""
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    across, down = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
    return np.asfortranarray(across**2 + down**2 <= 1, dtype=np.uint8)


def runs(box: np.ndarray) -> dict[str, Any]:
    """Compressed runs of the ellipse in a box."""
    encoded = mask.encode(ellipse(box))
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def segment(box: np.ndarray, form: int) -> list[list[float]] | dict[str, Any]:
    """A segment in each of COCO's forms in turn: polygons, plain runs, compressed runs."""
    x0, y0, x1, y1 = box.tolist()
    if form % 4 < 2:
        kite = [x0, y0 + 0.5, (x0 + x1) / 2, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2 - 0.3, y1]
        return [kite, [x0, y0, x0 + 4, y0, x0 + 4, y0 + 4]][: form % 4 + 1]
    if form % 4 == 3:
        return runs(box)
    pixels = ellipse(box).ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=0))  # runs begin with one of zeros, maybe of none
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate([[0], changes, [len(pixels)]])).tolist()}


def area(segment: Any) -> float:
    """Its pixels."""
    if isinstance(segment, list):
        return float(mask.area(mask.merge(mask.frPyObjects(segment, HEIGHT, WIDTH))))
    plain = isinstance(segment["counts"], list)
    return float(mask.area(mask.frPyObjects(segment, HEIGHT, WIDTH) if plain else segment))


def random_set(seed: int, points: int = 17, federated: bool = False) -> tuple[AnnotatedSet, Detections]:
    """Objects in most images, of all classes but the last, and detections near them and anywhere.

    Image ids do not rise, scores are tenths, a fifth of the objects is ignored; every fifth image
    is empty.
    """
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, IMAGES) * (np.arange(IMAGES) % 5 != 4)
    first = np.concatenate([[0], np.cumsum(counts)])
    objects, image = int(first[-1]), np.repeat(np.arange(IMAGES), counts)
    boxes, labels = random_boxes(random, objects), random.integers(0, CLASSES - 1, objects)
    segments = [segment(box, form) for form, box in enumerate(boxes)]
    keypoints = np.concatenate(
        [
            random.uniform(boxes[:, None, :2], boxes[:, None, 2:], (objects, points, 2)),
            random.integers(0, 3, (objects, points, 1)),
        ],
        axis=2,
    ).astype(np.float32)
    keypoints[random.random(objects) < 0.2, :, 2] = 0
    frequency = ["r", "c", "f", "r", "c"]
    absent = [np.setdiff1d(np.arange(CLASSES), labels[image == n]) for n in range(IMAGES)]
    truth = AnnotatedSet(
        name="random",
        classes=[f"class {c}" for c in range(CLASSES)],
        ids=random.permutation(1000)[:IMAGES].tolist(),
        paths=[Path(f"{n}.jpg") for n in range(IMAGES)],
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (IMAGES, 1)),
        first=first,
        boxes=boxes,
        labels=labels,
        areas=np.array([area(one) for one in segments], np.float32),
        ignored=(random.random(objects) < 0.2) & (not federated),
        annotation_ids=np.arange(objects) + 1,
        segments=segments,
        keypoints=keypoints,
        federated=Federated(
            frequency,
            negative=[some[random.random(len(some)) < 0.5].tolist() for some in absent],
            not_exhaustive=[
                np.unique(labels[image == n])[:1].tolist() if random.random() < 0.5 else [] for n in range(IMAGES)
            ],
        )
        if federated
        else None,
    )
    near = np.repeat(np.arange(objects), random.integers(0, 4, objects))
    moved = boxes[near] + random.integers(-5, 6, (len(near), 4))
    moved = np.concatenate([moved[:, :2], np.maximum(moved[:, 2:], moved[:, :2] + 1)], axis=1)
    anywhere = random.integers(0, IMAGES, 120)
    found_image = np.concatenate([image[near], anywhere, np.full(130, CROWDED)])
    found_boxes = np.concatenate([moved, random_boxes(random, 120 + 130)]).astype(np.float32)
    found_labels = np.concatenate([labels[near], random.integers(0, CLASSES, 120), np.zeros(130, np.int64)])
    found_keypoints = random.uniform(0, 100, (len(found_image), points, 3))
    found_keypoints[: len(near)] = keypoints[near] + random.normal(0, 2, (len(near), points, 3))
    order = random.permutation(len(found_image))
    found = Detections(
        image=found_image[order],
        boxes=found_boxes[order],
        scores=random.integers(0, 11, len(order)).astype(np.float32) / 10,
        labels=found_labels[order],
        segments=[runs(box) for box in found_boxes[order]],
        keypoints=found_keypoints[order].astype(np.float32),
    )
    return truth, found
