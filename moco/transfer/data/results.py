"""Result files in the form that the evaluation servers of COCO and LVIS take."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError
from moco.files import whole_file
from moco.transfer.data.annotations import AnnotatedSet, Detections

Kind = Literal["bbox", "segm", "keypoints"]
DECIMALS = 9
"""Of a detection's numbers: 0.8 - 0.1 is 0.7 again, and nothing else is lost."""


def boxes_as_written(corners: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Give boxes, [D, 4] x0, y0, x1, y1, as x, y, width, height: COCO's metric compares these."""
    exact = corners.astype(np.float64)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1).round(DECIMALS)


def keypoints_as_written(points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Give keypoints, [D, K, 3], with the digits that COCO's metric compares."""
    return points.astype(np.float64).round(DECIMALS)


def write_results(path: Path, truth: AnnotatedSet, found: Detections, kind: Kind) -> None:
    """Write detections as a result file: `coco_ap` and pycocotools give the same figures for them.

    A JSON list with an object for each detection: image_id and category_id as in the annotation
    file, score, and for "bbox" bbox [x, y, width, height], for "segm" segmentation {size, counts},
    for "keypoints" keypoints [x, y, score, …]. A file has one kind: with boxes in it, pycocotools
    would take the boxes' areas for those of the masks.

    Args:
        path: in a folder that exists.
        truth: the set, read from COCO's or LVIS's file.
        found: detections in it.
        kind: what to write.

    Raises:
        MocoError: the set has no category ids, or the detections lack what `kind` needs.
    """
    if not truth.category_ids:
        raise MocoError(
            f"{truth.name}: has no category ids, which a result file names; read it with read_coco or read_lvis"
        )
    lines = (json.dumps(entry) for entry in _entries(truth, found, kind))
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write("[")
        file.writelines(("\n" if number == 0 else ",\n") + line for number, line in enumerate(lines))
        file.write("\n]\n")


def _entries(truth: AnnotatedSet, found: Detections, kind: Kind) -> Iterator[dict[str, Any]]:
    key, column = _column(found, kind)
    rows = zip(found.image.tolist(), found.labels.tolist(), column, found.scores.tolist(), strict=True)
    for image, label, value, score in rows:
        name = {"image_id": truth.ids[image], "category_id": truth.category_ids[label]}
        yield name | {key: value, "score": score}


def _column(found: Detections, kind: Kind) -> tuple[str, list[Any]]:
    if kind == "bbox":
        return "bbox", boxes_as_written(found.boxes).tolist()
    if kind == "keypoints":
        if found.keypoints is None:
            raise MocoError("the detections: no keypoints; write boxes alone (kind 'bbox')")
        return "keypoints", keypoints_as_written(found.keypoints).reshape(len(found.image), -1).tolist()
    if found.segments is None:
        raise MocoError("the detections: no segments; write boxes alone (kind 'bbox')")
    return "segmentation", [_as_text(segment) for segment in found.segments]


def _as_text(segment: dict[str, Any]) -> dict[str, Any]:
    """Write a compressed RLE as JSON can hold it: encoders give bytes."""
    counts = segment["counts"]
    return {
        "size": [int(side) for side in segment["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
