"""Result files: what pycocotools reads in them, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from moco.errors import MocoError
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.data.results import write_results


def one_detection() -> tuple[AnnotatedSet, Detections]:
    """A detection of the second class in the second image."""
    column = np.zeros(0, np.int64)
    boxes = np.zeros((0, 4), np.float32)
    truth = AnnotatedSet(
        "a set", ["cat", "dog"], ["x", 7.5], [], np.zeros((2, 2), np.int32), np.zeros(3, np.int64), boxes, column,
        np.zeros(0), np.zeros(0, bool), column, category_ids=["c", 18],
    )  # fmt: skip
    found = Detections(
        np.array([1]),
        np.array([[0.1, 2.0, 0.8, 4.5]]),
        np.array([0.875], np.float32),
        np.array([1]),
        [{"size": (np.int32(6), np.int32(8)), "counts": b"X1"}],
        np.array([[[1.5, 2.25, 1.0]]], np.float32),
    )
    return truth, found


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bbox", {"bbox": [0.1, 2.0, 0.7, 2.5]}),  # 0.8 - 0.1 is 0.7 and nothing beside it
        ("segm", {"segmentation": {"size": [6, 8], "counts": "X1"}}),
        ("keypoints", {"keypoints": [1.5, 2.25, 1.0]}),
    ],
)
def test_an_entry_has_the_files_own_ids_the_score_and_one_kind(tmp_path, kind, value):
    write_results(tmp_path / "results.json", *one_detection(), kind)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == [{"image_id": 7.5, "category_id": 18, "score": 0.875} | value]


def test_no_detections_are_an_empty_list(tmp_path):
    truth, found = one_detection()
    none = Detections(found.image[:0], found.boxes[:0], found.scores[:0], found.labels[:0])
    write_results(tmp_path / "results.json", truth, none, "bbox")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_what_a_file_would_lack_is_named_and_no_file_is_left(tmp_path):
    truth, found = one_detection()
    for given, detections, kind, said in (
        (replace(truth, category_ids=[]), found, "bbox", "a set: has no category ids"),
        (truth, replace(found, segments=None), "segm", "no segments"),
        (truth, replace(found, keypoints=None), "keypoints", "no keypoints"),
    ):
        with pytest.raises(MocoError, match=said):
            write_results(tmp_path / "results.json", given, detections, kind)
    assert not list(tmp_path.iterdir())
