"""Annotation files as people have them, with detections: what few expect and metrics take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask

from moco.transfer.data.annotations import AnnotatedSet, Detections

HEIGHT, WIDTH = 120, 160
IMAGES, CLASSES, OBJECTS = 5, 3, 24
THRESHOLDS = [number / 100 for number in range(50, 100, 5)]
SCORES = [0.1, 0.2, 0.3, 0.123456789, 0.1234567891, np.inf, -np.inf, np.nan]


def odd_file(seed: int, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A file's content and detections in it; its images are written.

    Ids are whole numbers, texts or decimals, of annotations also from 0 or repeated. Boxes have one
    decimal; some have no area, a negative side, or a place far beyond the image. Areas lie on the
    limits of COCO's sizes, and stated numbers of keypoints are not those of the keypoints.
    Detections overlap objects by exactly a threshold; scores are not all finite.
    """
    random = np.random.default_rng(seed)

    def decimal(low: float, high: float, size: Any = None) -> Any:
        return np.round(random.uniform(low, high, size), 1)

    images, categories = _ids(random, IMAGES), _ids(random, CLASSES)
    points = 17 if seed % 2 else 3
    number = {
        "from 1": lambda n: n + 1,
        "from 0": lambda n: n,
        "decimals": lambda n: n / 2 + 0.5,
        "texts": lambda n: str(n + 1),
        "repeated": lambda n: int(random.integers(1, OBJECTS)),
    }[["from 1", "from 0", "decimals", "texts", "repeated"][seed % 5]]
    annotations: list[dict[str, Any]] = []
    for n in range(OBJECTS):
        x, y, width, height = decimal(-10, 150), decimal(-10, 110), decimal(0.1, 80), decimal(0.1, 60)
        odd = random.integers(0, 8)
        x, width = x + 100 * (odd == 1), {0: 0.0, 2: width + 200}.get(odd, width)
        annotations.append(
            {
                "id": number(n),
                "image_id": images[random.integers(0, IMAGES)],
                "category_id": categories[random.integers(0, CLASSES)],
                "bbox": [float(x), float(y), float(width), float(-height if odd == 3 else height)],
                "area": float(random.choice([0, 32**2, 96**2, decimal(0, 20000)])),
                "iscrowd": int(random.random() < 0.15),
                "keypoints": np.column_stack(
                    [decimal(0, WIDTH, points), decimal(0, HEIGHT, points), random.integers(0, 3, points)]
                )
                .ravel()
                .tolist(),
                "num_keypoints": int(random.integers(0, 3)),
                "segmentation": _segment(random, n),
            }
        )
    for n in range(IMAGES):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{n}.png")
    content = {
        "images": [
            {"id": name, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n, name in enumerate(images)
        ],
        "categories": [
            {"id": name, "name": f"class {c}", "keypoints": [f"point {k}" for k in range(points)]}
            for c, name in enumerate(categories)
        ],
        "annotations": annotations,
    }
    detections = []
    for entry in annotations * 3:
        x, y, width, height = entry["bbox"]
        share = float(random.choice([1, *THRESHOLDS]))
        if random.random() < 0.3:
            x, share = float(x + decimal(-3, 3)), 1
        pixels = np.roll(mask.decode(_as_runs(entry["segmentation"])), random.integers(-3, 4), axis=1)
        moved = np.array(entry["keypoints"]).reshape(-1, 3) + np.array([*decimal(-4, 4, 2), 0])
        detections.append(
            {
                "image_id": entry["image_id"],
                "category_id": entry["category_id"] if random.random() < 0.9 else categories[0],
                "bbox": [round(x, 6), y, round(width * share, 6), height],
                "segmentation": mask.encode(np.asfortranarray(pixels)),
                "keypoints": moved.ravel().tolist(),
                "score": float(random.choice(SCORES)),
            }
        )
    return content, detections


def _ids(random: np.random.Generator, count: int) -> list[Any]:
    numbers = random.permutation(50)[:count].tolist()
    kind = random.integers(0, 4)
    return [[number, number + 2**60, number / 2, f"name {number}"][kind] for number in numbers]


def _segment(random: np.random.Generator, n: int) -> Any:
    first, count = int(random.integers(0, HEIGHT * WIDTH - 800)), int(random.integers(0, 800))
    runs = {"size": [HEIGHT, WIDTH], "counts": [first, count, HEIGHT * WIDTH - first - count]}
    if n % 3 == 0:
        return runs
    if n % 3 == 1:
        return {"size": [HEIGHT, WIDTH], "counts": _as_runs(runs)["counts"].decode()}
    return [np.round(random.uniform(-30, 190, 2 * int(random.integers(3, 7))), 1).tolist()]


def _as_runs(segment: Any) -> dict[str, Any]:
    if isinstance(segment, list):
        return mask.merge(mask.frPyObjects(segment, HEIGHT, WIDTH))
    return mask.frPyObjects(segment, HEIGHT, WIDTH) if isinstance(segment["counts"], list) else segment


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Write the file beside its images."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def as_columns(truth: AnnotatedSet, detections: list[dict[str, Any]]) -> Detections:
    """The detections as our metrics take them."""
    boxes = np.array([one["bbox"] for one in detections])
    return Detections(
        image=np.array([truth.ids.index(one["image_id"]) for one in detections]),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        scores=np.array([one["score"] for one in detections]),
        labels=np.array([truth.category_ids.index(one["category_id"]) for one in detections]),
        segments=[one["segmentation"] for one in detections],
        keypoints=np.array([one["keypoints"] for one in detections]).reshape(len(detections), -1, 3),
    )
