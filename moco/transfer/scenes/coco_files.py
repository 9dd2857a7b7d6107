"""Scenes in COCO's JSON format: boxes, areas, and masks as polygons or run lengths."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.transfer.data.segments import Segment, encode
from moco.transfer.scenes.composition import Scene

LICENSE = ("MIT", "https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE")
"""Name and URL of the images' license."""


def annotations_of(made: Scene, labels: NDArray[np.int64], image: int, first: int) -> list[dict[str, Any]]:
    """Describe the items of a scene. None is a crowd.

    Args:
        made: the scene.
        labels: int64 [n], from 0; category ids count from 1.
        image: the scene's id.
        first: id of the first annotation; the others count on.
    """
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": label + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": segment_of(mask),
        }
        for number, (mask, (x0, y0, x1, y1), label) in enumerate(
            zip(made.masks, made.boxes.tolist(), labels.tolist(), strict=True), start=first
        )
    ]


def write_coco(
    path: Path,
    description: str,
    classes: Sequence[str],
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> None:
    """Write a split's JSON, in one line.

    Args:
        path: the file; its folder exists.
        description: of the set.
        classes: names; their ids count from 1.
        images: id, file_name, height and width of each.
        annotations: as `annotations_of` gives them.
    """
    content = {
        "info": {"description": description, "version": "1.0"},
        "licenses": [{"id": 1, "name": LICENSE[0], "url": LICENSE[1]}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "fashion"} for number, name in enumerate(classes, start=1)
        ],
    }
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def segment_of(mask: NDArray[np.bool_]) -> Segment:
    """Encode a mask in the form that suits it; pycocotools decodes either to exactly the mask.

    Args:
        mask: bool, H x W, not empty.

    Returns:
        For a mask of one part without holes one polygon, along the edges of its pixels; else
        compressed run lengths.
    """
    doubled = cv2.resize(mask.view(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if len(outlines) > 1:
        return encode(mask)
    # OpenCV's outline runs through pixels' centers. Of the two pixels that one became, the first
    # lies at its near edge and the second at its far one.
    points = (outlines[0][:, 0].astype(np.int64) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    come, go = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners = points[come[:, 0] * go[:, 1] != come[:, 1] * go[:, 0]]
    return [corners.ravel().astype(float).tolist()]
