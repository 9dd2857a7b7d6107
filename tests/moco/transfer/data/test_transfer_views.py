"""Views for fine-tuning: boxes, masks, keypoints and label maps follow the pixels."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from moco.images.draws import Draws
from moco.transfer.data.views import (
    DRAWS,
    IGNORED,
    PADDING,
    Instances,
    boxes_view,
    fitted,
    mirrored,
    pixels_view,
    resized,
)
from moco.transfer.schedules import BoxSizes, PixelSizes

SIZES = BoxSizes((40, 60, 80), 80, long_side=100)


def picture() -> tuple[np.ndarray, Instances]:
    """A 20 x 30 image with a white rectangle: its box, mask and two corner pixels."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:10, 6:18] = 255
    keypoints = np.array([[[6.5, 4.5, 2], [17.5, 4.5, 1], [12.5, 9.5, 0]]], np.float32)
    boxes = np.array([[6, 4, 18, 10]], np.float32)
    return image, Instances(boxes, np.array([3]), (image[None, :, :, 0] > 0).astype(np.uint8), keypoints)


def numbers(seed: int, epoch: int, samples: np.ndarray) -> np.ndarray:
    return Draws.of(seed, epoch, samples, views=1)("fine-tuning", DRAWS)[..., 0].T


def extent(mask: np.ndarray) -> list[int]:
    """x0, y0, x1, y1 of what is not 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((375, 500), 800, (800, 1067)),
        ((500, 375), 480, (640, 480)),
        ((300, 1000), 800, (400, 1333)),
        ((7, 9), 7, (7, 9)),
    ],
)
def test_the_short_side_is_as_asked_unless_the_long_side_would_be_too_long(size, short, expected):
    assert fitted(size, short, 1333) == expected


def test_boxes_masks_and_keypoints_follow_the_pixels_when_resized():
    image, found = resized(*picture(), 40, 90)
    assert image.shape == (40, 90, 3)
    assert found.boxes.dtype == np.float32
    assert found.boxes.tolist() == [[18, 8, 54, 20]]
    assert extent(found.masks[0]) == extent(image[:, :, 0] > 127) == [18, 8, 54, 20]
    assert found.keypoints[0, 0].tolist() == [19.5, 9, 2]


def test_boxes_masks_and_keypoints_follow_the_pixels_when_mirrored():
    image, found = mirrored(*picture(), [(0, 1)])
    assert found.boxes.tolist() == [[12, 4, 24, 10]]
    assert extent(found.masks[0]) == extent(image[:, :, 0]) == [12, 4, 24, 10]
    assert found.keypoints[0].tolist() == [[12.5, 4.5, 1], [23.5, 4.5, 2], [17.5, 9.5, 0]]


def test_mirroring_twice_changes_nothing():
    image, found = picture()
    twice, again = mirrored(*mirrored(image, found, [(0, 1)]), [(0, 1)])
    assert np.array_equal(twice, image)
    for name in ("boxes", "labels", "masks", "keypoints"):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name


def test_a_training_view_has_one_of_the_short_sides_and_half_of_them_are_mirrored():
    image, found = picture()
    views = [boxes_view(image, found, u, SIZES) for u in numbers(0, 0, np.arange(300))]
    sides = [min(view.shape[:2]) for view, _ in views]
    assert {40, 60, 67} == set(sides)  # 80 would be 120 wide
    assert all(abs(sides.count(side) - 100) < 40 for side in set(sides))
    flipped = sum(each.boxes[0, 0] / view.shape[1] == pytest.approx(0.4) for view, each in views)
    assert 110 < flipped < 190


def test_a_view_depends_on_seed_epoch_and_image_alone():
    image, found = picture()
    together = numbers(3, 1, np.array([8, 5]))[1]
    alone = numbers(3, 1, np.array([5]))[0]
    first, second = (boxes_view(image, found, u, SIZES) for u in (together, alone))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1].boxes, second[1].boxes)


@pytest.mark.parametrize("flip", [0.0, 0.9])
def test_masks_that_come_one_at_a_time_give_the_view_of_all_together_and_are_never_held_together(flip):
    image, found = picture()
    several, u, alive = np.stack([np.roll(found.masks[0], k, axis=1) for k in range(9)]), np.full(DRAWS, flip), []

    def one_at_a_time():
        for mask in several:
            full = mask.copy()
            alive.append(weakref.ref(full))
            assert sum(reference() is not None for reference in alive) <= 2
            yield full
            del full

    _, together = boxes_view(image, replace(found, masks=several), u, SIZES)
    _, each = boxes_view(image, replace(found, masks=None), u, SIZES, masks=one_at_a_time())
    assert np.array_equal(each.masks, together.masks) and len(each.masks) == 9


def test_an_image_without_objects_stays_without_them():
    empty = Instances(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64),
        np.zeros((0, 20, 30), np.uint8),
        np.zeros((0, 3, 3), np.float32),
    )
    image, found = boxes_view(picture()[0], empty, np.zeros(DRAWS), SIZES, [(0, 1)])
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, *image.shape[:2])
    assert found.keypoints.shape == (0, 3, 3)


def test_label_maps_follow_the_pixels_through_scale_crop_and_flip():
    labels = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((12, 12), np.uint8))
    image = np.repeat(labels[:, :, None] * 20, 3, axis=2)
    sizes = PixelSizes(32, (0.5, 2.0))
    padded = 0
    for u in numbers(1, 0, np.arange(60)):
        view, found = pixels_view(image, labels, u, sizes)
        assert view.shape == (32, 32, 3)
        assert found.shape == (32, 32)
        inside = found != IGNORED
        padded += not inside.all()
        assert (view[~inside] == PADDING).all()
        shown = np.round(view[:, :, 0] / 20)
        assert (shown[inside] == found[inside]).mean() > 0.8  # colors mix where fields meet
    assert 10 < padded < 50


def test_a_larger_scale_shows_less_of_the_image_and_no_padding():
    labels = np.arange(40, dtype=np.uint8)[:, None].repeat(40, axis=1)
    image = np.zeros((40, 40, 3), np.uint8)
    u = np.full(DRAWS, 0.9)
    shown = {
        scale: np.unique(pixels_view(image, labels, u, PixelSizes(32, (scale, scale)))[1]) for scale in (0.5, 1, 2)
    }
    assert len(shown[2]) == 16
    assert len(shown[1]) == 32
    assert len(shown[0.5]) == 21  # every other row, and padding
    assert IGNORED in shown[0.5]
    assert IGNORED not in shown[1]
