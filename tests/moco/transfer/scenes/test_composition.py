"""What a composed scene shows, and what is said of it."""

import cv2
import numpy as np
import pytest
from drawn_items import drawn_items

from moco.transfer.scenes.backgrounds import background, clouds
from moco.transfer.scenes.composition import LEAST_VISIBLE, compose, silhouette

ITEMS, _ = drawn_items(40, seed=0)


def scenes(count=30, size=(90, 128), items=6, sizes=(24, 60)):
    return [compose(np.random.default_rng([1, n]), ITEMS, size, items, sizes, 1.0) for n in range(count)]


def test_no_pixel_belongs_to_two_items():
    for scene in scenes():
        assert scene.masks.sum(axis=0).max() == 1


def test_boxes_are_tight_around_what_is_seen():
    for scene in scenes():
        for mask, (x0, y0, x1, y1) in zip(scene.masks, scene.boxes, strict=True):
            inside = mask[y0:y1, x0:x1]
            assert inside.sum() == mask.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_of_every_item_enough_is_seen_however_crowded_the_scene():
    crowded = scenes(count=10, items=30)
    visible = np.concatenate([scene.visible for scene in crowded])
    assert LEAST_VISIBLE <= visible.min() < 0.3
    assert visible.max() == 1
    assert min(len(scene.chosen) for scene in crowded) < 30  # those without room are left out


def test_an_item_is_seen_whole_if_and_only_if_nothing_covers_or_cuts_it():
    for scene in scenes():
        assert np.array_equal(scene.visible == 1, ~(scene.occluded | scene.truncated))
        height, width = scene.image.shape[:2]
        at_border = (scene.boxes[:, :2] == 0).any(1) | (scene.boxes[:, 2:] == (width, height)).any(1)
        assert at_border[scene.truncated & ~scene.occluded].all()


def test_later_items_cover_earlier_ones():
    covered = [scene.occluded for scene in scenes()]
    assert not any(occluded[-1] for occluded in covered)
    assert any(occluded.any() for occluded in covered)


def test_items_are_of_the_sizes_asked_for():
    largest = [
        max(x1 - x0, y1 - y0)
        for scene in scenes(sizes=(30, 50))
        for (x0, y0, x1, y1), visible in zip(scene.boxes, scene.visible, strict=True)
        if visible == 1
    ]
    assert len(largest) > 30
    assert 24 <= min(largest) < 34  # a leaning item's box is another than its own
    assert 46 < max(largest) <= 64


def test_a_scene_follows_from_the_state_of_the_generator():
    one, same, other = (compose(np.random.default_rng(n), ITEMS, (64, 64), 4, (20, 40), 0.5) for n in (1, 1, 2))
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.masks, same.masks)
    assert not np.array_equal(one.image, other.image)


def test_where_no_item_lies_the_background_is_untouched():
    scene = compose(np.random.default_rng(3), ITEMS, (80, 80), 3, (20, 40), 0.5)
    alone = background(np.random.default_rng(3), 80, 80, 0.5)
    near = cv2.dilate(scene.masks.any(axis=0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.array_equal(scene.image[~near], alone[~near])
    assert (scene.image[near] != alone[near]).mean() > 0.5


def test_an_outline_leaves_out_rim_and_specks_and_fills_gaps():
    item = np.zeros((28, 28), np.uint8)
    item[8:20, 8:20] = 200
    expected = item > 0
    item[7, 8:20] = 3  # faint
    item[2, 2] = 90  # a speck
    item[12:14, 12:14] = 0  # a gap
    assert np.array_equal(silhouette(item), expected)
    item[9:19, 9:19] = 0  # no gap any more
    assert silhouette(item).sum() == 12 * 12 - 10 * 10


def test_the_outline_of_an_item_that_is_faint_all_over_is_all_of_it():
    item = np.zeros((28, 28), np.uint8)
    item[5:9, 5:9] = 4
    assert np.array_equal(silhouette(item), item > 0)


@pytest.mark.parametrize("size", [(48, 64), (100, 70)])
def test_backgrounds_have_the_size_asked_for_and_vary(size):
    images = [background(np.random.default_rng(n), *size, 1.0) for n in range(12)]
    assert all(image.shape == (*size, 3) and image.dtype == np.uint8 for image in images)
    assert all(image.std() > 4 for image in images)
    assert np.std([image.mean(axis=(0, 1)) for image in images]) > 20


def test_clutter_gives_backgrounds_more_contrast():
    calm, half, busy = (
        np.mean([background(np.random.default_rng(n), 64, 64, clutter).std(axis=(0, 1)) for n in range(20)])
        for clutter in (0, 0.5, 1)
    )
    assert 5 < 1.4 * calm < half < busy / 1.2


def test_clouds_fill_the_range_and_are_smooth():
    field = clouds(np.random.default_rng(0), 90, 120, 3)
    assert field.shape == (90, 120)
    assert (field.min(), field.max()) == (0, 1)
    assert np.abs(np.diff(field, axis=1)).mean() < 0.05
