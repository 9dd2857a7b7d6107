"""The random views against the recipes that they restate."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.stats import ks_2samp
from small_material import psnr, smooth_photo
from torchvision.transforms.v2 import functional as tv

from moco.config import load_params
from moco.images.operations import VIEW
from moco.images.views import center_view, crop_box, draw, paint, two_views

SETTINGS = load_params(Path(__file__).parents[3] / "params.yaml").pretrain.views.model_copy(
    update={"blur_p": 0.5, "flip_p": 0.5}
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return smooth_photo(90, 120)


def painted(image: np.ndarray, size: int, **drawn) -> np.ndarray:
    """The view of a whole image with these values drawn, and nothing else."""
    view, out = np.zeros(1, VIEW), np.empty((1, size, size, 3), np.uint8)
    view["height"], view["width"], view["order"] = *image.shape[:2], -1
    for name, value in drawn.items():
        view[name] = value
    paint(image, view, out)
    return out[0]


def test_crops_have_torchvisions_distribution_of_area_and_ratio():
    height, width, count = 90, 120, 4000
    ours = np.array([crop_box(u[0], height, width, 0.2) for u in draw(SETTINGS, 1, 0, np.arange(count), views=1).crops])
    torch.manual_seed(0)
    theirs = np.array(
        [
            torchvision.transforms.RandomResizedCrop.get_params(
                torch.empty(3, height, width), (0.2, 1.0), (3 / 4, 4 / 3)
            )
            for _ in range(count)
        ]
    )
    for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.001
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize(
    ("numbers", "at", "side", "crop"),
    [
        ([0.5, 0.5], (0.0, 0.5), 100, (0, 12, 77, 77)),
        ([0.5, 0.5], (0.5, 0.0), 100, (12, 0, 77, 77)),
        ([0.5, 0.5], (0.9999999, 0.9999999), 100, (23, 23, 77, 77)),  # to the last pixel
        ([0.5, 0.0], (0.0, 0.0), 100, (0, 0, 89, 67)),
        ([0.5, 0.9999999], (0.9999999, 0.9999999), 100, (33, 11, 67, 89)),
        ([0.9999999, 0.0, 0.25, 0.5], (0.9999999, 0.9999999), 100, (37, 37, 63, 63)),  # the first does not fit
        ([0.9999999, 0.9999999] * 9 + [0.0, 0.5], (0.0, 0.0), 100, (0, 0, 45, 45)),  # nine do not
        ([0.9999999, 0.5], (0.9999999, 0.9999999), 100, (0, 0, 100, 100)),
        ([0.5, 0.0], (0.9999999, 0.9999999), 2, (0, 1, 2, 1)),
        ([0.5, 0.9999999], (0.9999999, 0.9999999), 2, (1, 0, 1, 2)),
        ([0.125, 0.0], (0.0, 0.0), 1, (0, 0, 1, 1)),  # less than half a pixel wide does not fit
        ([0.125, 0.9999999], (0.0, 0.0), 1, (0, 0, 1, 1)),
    ],
)
def test_a_crop_follows_from_its_numbers(numbers, at, side, crop):
    assert crop_box(np.array([*numbers, *[0.5] * (20 - len(numbers)), *at]), side, side, 0.2) == crop


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((10, 200), (0, 93, 10, 13)),
        ((200, 10), (93, 0, 13, 10)),
        ((120, 200), (0, 20, 120, 160)),
        ((200, 120), (20, 0, 160, 120)),
        ((33, 40), (0, 0, 33, 40)),
        ((40, 33), (0, 0, 40, 33)),
    ],
)
def test_a_crop_that_never_fits_is_the_largest_central_one(size, crop):
    assert crop_box(np.array([0.9999999, 0.0] * 11), *size, 1.0) == crop


@pytest.mark.parametrize("crop", [(0, 0, 90, 120), (11, 23, 57, 71), (3, 5, 20, 16), (0, 0, 64, 100), (0, 25, 90, 20)])
def test_a_crop_is_pillows_resize_of_it(photo, crop):
    top, left, height, width = crop
    box = (left, top, left + width, top + height)
    theirs = Image.fromarray(photo).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    ours = painted(photo, 64, top=top, left=left, height=height, width=width)
    assert psnr(ours, np.array(theirs)) > 50


def test_the_two_views_are_those_drawn_for_the_sample(photo):
    drawn, out = draw(SETTINGS, 1, 2, np.arange(5))[3], np.empty((2, 32, 32, 3), np.uint8)
    paint(photo, drawn.placed(90, 120), out)
    assert np.array_equal(two_views(photo, SETTINGS, 32, seed=1, epoch=2, sample=3), out)


def test_the_center_view_is_resize_and_center_crop(photo):
    theirs = tv.center_crop(tv.resize(Image.fromarray(photo), 64), [56, 56])
    assert psnr(center_view(photo, 56, 0.875), np.array(theirs)) > 45
    assert center_view(photo[:, :20], 32, 1.0).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 9001)])
def test_the_center_view_of_a_very_long_image_is_that_of_its_middle_and_needs_no_memory(size):
    long = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    tracemalloc.start()
    view = center_view(long, 224, 0.875)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert view.shape == (224, 224, 3) and most < 2 * 10**6
    cut = [(side - 101) // 2 if side > 3 else 0 for side in size]
    middle = long[cut[0] : size[0] - cut[0], cut[1] : size[1] - cut[1]]
    height, width = (round(256 / min(size) * side) for side in middle.shape[:2])
    whole = cv2.resize(middle, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - 224) // 2, (width - 224) // 2
    assert np.abs(view.astype(int) - whole[top : top + 224, left : left + 224]).max() <= 1


@pytest.mark.parametrize("size", [(50, 200), (200, 50), (64, 64), (33, 132)])
def test_the_center_view_of_an_image_of_usual_shape_is_not_cut_first(size, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    view = center_view(image, 32, 0.875)
    monkeypatch.setattr("moco.images.views._LONGEST", 1000)
    assert np.array_equal(view, center_view(image, 32, 0.875))
