"""Writing a set in COCO's JSON format: boxes, areas, and masks as polygons or run lengths."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moco.transfer.data.segments import Segment, encode


class CocoFile:
    """One split's JSON, gathered image by image.

    Category ids count from 1 in the order of the classes. No annotation is a crowd.

    Args:
        classes: names.
        supercategory: of all of them.
        description: of the set; goes into `info`.
        license: (name, URL) of the images.
    """

    def __init__(self, classes: Sequence[str], supercategory: str, description: str, license: tuple[str, str]) -> None:
        self.info = {"description": description, "version": "1.0"}
        self.licenses = [{"id": 1, "name": license[0], "url": license[1]}]
        self.categories = [
            {"id": number, "name": name, "supercategory": supercategory} for number, name in enumerate(classes, start=1)
        ]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(
        self,
        number: int,
        file_name: str,
        first_annotation: int,
        masks: NDArray[np.bool_],
        boxes: NDArray[np.int64],
        labels: NDArray[np.int64],
    ) -> None:
        """Add an image and its n instances.

        Args:
            number: the image's id.
            file_name: relative to the folder of the images.
            first_annotation: id of the first instance; the others count on.
            masks: bool, n x H x W; H and W are the image's.
            boxes: int64, n x 4: x0, y0, x1, y1 from 0, half-open.
            labels: int64 [n], from 0.
        """
        height, width = masks.shape[1:]
        self.images.append({"id": number, "license": 1, "file_name": file_name, "height": height, "width": width})
        for annotation, (mask, (x0, y0, x1, y1), label) in enumerate(
            zip(masks, boxes.tolist(), labels.tolist(), strict=True), start=first_annotation
        ):
            self.annotations.append(
                {
                    "id": annotation,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": segment_of(mask),
                }
            )

    def write(self, path: Path) -> None:
        """Write the JSON, in one line; the folder is made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "info": self.info,
            "licenses": self.licenses,
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def segment_of(mask: NDArray[np.bool_]) -> Segment:
    """A mask in the form that suits it; pycocotools gives back exactly the mask from either.

    Args:
        mask: bool, H x W, not empty.

    Returns:
        For a mask of one part without holes one polygon, along the edges of its pixels; else compressed
        run lengths.
    """
    doubled = cv2.resize(mask.view(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if len(outlines) > 1:
        return encode(mask)
    # OpenCV's outline runs through pixels' centers. Of the two pixels that one became, the first lies at its near
    # edge and the second at its far one.
    points = (outlines[0][:, 0].astype(np.int64) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    come, go = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners = points[come[:, 0] * go[:, 1] != come[:, 1] * go[:, 0]]
    return [corners.ravel().astype(float).tolist()]
