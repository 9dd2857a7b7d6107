"""COCO JSON as pycocotools reads it."""

import json

import cv2
import numpy as np
import pytest

from moco.transfer.data.segments import mask_of
from moco.transfer.scenes.coco_files import CocoFile, segment_of

CLASSES = ["T-shirt/top", 'Käse & "Brot"']


def blobs(seed, height=60, width=83):
    draw = np.random.default_rng(seed)
    noise = draw.integers(0, 256, (7, 7), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > 150


def parts(mask):
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return [labels == part for part in range(1, count)]


@pytest.mark.parametrize("seed", range(10))
def test_a_mask_comes_back_pixel_for_pixel_from_its_segment(seed):
    whole = blobs(seed)
    for mask in (whole, ~whole, *parts(whole), *parts(~whole)):
        assert np.array_equal(mask_of(segment_of(mask), *mask.shape), mask)


def test_one_part_without_holes_is_a_polygon_and_all_else_run_lengths():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 3:14] = True
    assert segment_of(mask) == [[3, 4, 3, 9, 14, 9, 14, 4]]
    ring, two = mask.copy(), mask.copy()
    ring[6, 6] = False
    two[15:18, 20:25] = True
    for other in (ring, two):
        segment = segment_of(other)
        assert isinstance(segment, dict)
        assert segment["size"] == [20, 30]
        assert isinstance(segment["counts"], str)


def test_a_single_pixel_and_a_mask_that_fills_the_image_are_polygons():
    for mask in (np.ones((5, 7), bool), np.eye(1, 40, 3, dtype=bool)):
        assert isinstance(segment_of(mask), list)
        assert np.array_equal(mask_of(segment_of(mask), *mask.shape), mask)


@pytest.fixture
def written(tmp_path):
    masks = np.array(parts(blobs(3))[:3])
    columns = [np.flatnonzero(mask.any(axis=0)) for mask in masks]
    rows = [np.flatnonzero(mask.any(axis=1)) for mask in masks]
    boxes = np.array([(c[0], r[0], c[-1] + 1, r[-1] + 1) for c, r in zip(columns, rows, strict=True)])
    file = CocoFile(CLASSES, "things", "A test", ("MIT", "https://example.org"))
    file.add(7, "000007.jpg", 11, masks[:2], boxes[:2], np.array([1, 0]))
    file.add(8, "000008.jpg", 13, masks[2:], boxes[2:], np.array([1]))
    file.add(9, "000009.jpg", 14, masks[:0], boxes[:0], np.array([], int))
    file.write(tmp_path / "annotations/instances.json")
    return tmp_path / "annotations/instances.json", masks, boxes


def test_pycocotools_finds_masks_boxes_areas_and_classes(written):
    from pycocotools.coco import COCO

    path, masks, boxes = written
    coco = COCO(str(path))
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == CLASSES
    assert coco.getAnnIds(imgIds=[9]) == []
    found = coco.loadAnns(coco.getAnnIds())
    assert [(entry["id"], entry["image_id"], entry["category_id"]) for entry in found] == [
        (11, 7, 2),
        (12, 7, 1),
        (13, 8, 2),
    ]
    for entry, mask, (x0, y0, x1, y1) in zip(found, masks, boxes.tolist(), strict=True):
        assert np.array_equal(coco.annToMask(entry), mask)
        assert entry["area"] == mask.sum()
        assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert entry["iscrowd"] == 0


def test_the_file_has_the_sections_that_tools_expect(written):
    content = json.loads(written[0].read_text())
    assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
    assert content["images"][0] == {"id": 7, "license": 1, "file_name": "000007.jpg", "height": 60, "width": 83}
    assert content["licenses"][0]["id"] == 1
    assert content["info"]["description"] == "A test"
    assert content["categories"][1] == {"id": 2, "name": CLASSES[1], "supercategory": "things"}
