"""Masks as COCO's segments."""

import cv2
import numpy as np
import pytest

from moco.transfer.data.segments import mask_of
from moco.transfer.scenes.coco_files import segment_of


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
