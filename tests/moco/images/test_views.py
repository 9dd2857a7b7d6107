"""The random views against the recipes that they restate."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from small_material import psnr, smooth_photo
from torchvision.transforms.v2 import functional as tv

from moco.config import load_params
from moco.images.views import VIEW, center_view, choose, crop_box, draw, paint, resize, two_views
from moco.permutation import key_of

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


def test_numbers_are_a_pure_function_of_seed_epoch_and_sample():
    alone = draw(7, 3, np.array([42]))[0]
    among = draw(7, 3, np.array([5, 42, 9]))[1]
    assert np.array_equal(alone, among)
    for other in (draw(8, 3, np.array([42])), draw(7, 4, np.array([42])), draw(7, 3, np.array([43]))):
        assert not np.isclose(other[0], alone).any()
    assert not np.isclose(alone[0], alone[1]).any()  # the two views of one image


def test_numbers_are_uniform_and_slots_unrelated():
    numbers = draw(0, 0, np.arange(20_000)).reshape(20_000, -1)
    assert abs(numbers.mean() - 0.5) < 0.001
    assert abs(numbers.var() - 1 / 12) < 0.001
    correlations = np.corrcoef(numbers.T)
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.04


def test_crops_have_torchvisions_distribution_of_area_and_ratio():
    height, width, count = 90, 120, 4000
    ours = np.array([crop_box(u[0], height, width, 0.2) for u in draw(1, 0, np.arange(count), views=1)])
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


def test_jitter_and_blur_have_the_official_distributions():
    count, always = 4000, SETTINGS.model_copy(update={"jitter_p": 1.0, "blur_p": 1.0})
    ours = choose(draw(1, 0, np.arange(count), views=1)[:, 0], always)
    torch.manual_seed(0)
    strengths = (always.brightness, always.contrast, always.saturation)
    official = torchvision.transforms.ColorJitter(*strengths, always.hue)
    theirs = [
        official.get_params(official.brightness, official.contrast, official.saturation, official.hue)
        for _ in range(count)
    ]
    orders = np.array([order.tolist() for order, *_ in theirs])
    for place in range(4):
        assert ks_2samp(ours["order"][:, place], orders[:, place]).pvalue > 0.001
    assert len({tuple(order) for order in ours["order"].tolist()}) == 24
    for operation in range(4):
        factors = [each[1 + operation] for each in theirs]
        assert ks_2samp(ours["factors"][:, operation], factors).pvalue > 0.001
    numbers = random.Random(0)
    assert ks_2samp(ours["sigma"], [numbers.uniform(0.1, 2.0) for _ in range(count)]).pvalue > 0.001


def test_a_crop_that_never_fits_is_the_largest_central_one():
    top, left, height, width = crop_box(np.full(32, 0.999999), 10, 200, 1.0)
    assert (height, width) == (10, 13)
    assert (top, left) == (0, 93)


def test_resizing_is_pillows_antialiased_bilinear(photo):
    for size in ((28, 28), (200, 150)):
        theirs = np.array(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))
        assert psnr(resize(photo, *size), theirs) > 50


@pytest.mark.parametrize("crop", [(0, 0, 90, 120), (11, 23, 57, 71), (3, 5, 20, 16), (0, 0, 64, 100)])
def test_a_crop_is_pillows_resize_of_it(photo, crop):
    top, left, height, width = crop
    box = (left, top, left + width, top + height)
    theirs = Image.fromarray(photo).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    ours = painted(photo, 64, top=top, left=left, height=height, width=width)
    assert psnr(ours, np.array(theirs)) > 50


@pytest.mark.parametrize("sigma", [0.1, 0.37, 0.8, 1.4, 2.0])
def test_blur_is_pillows(sigma):
    image = smooth_photo(224, 224)
    theirs = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
    assert psnr(painted(image, 224, sigma=sigma), np.array(theirs)) > 45


def test_each_operation_comes_as_often_as_its_probability():
    drawn = choose(draw(0, 0, np.arange(8000), views=1)[:, 0], SETTINGS)
    shares = {
        0.8: drawn["order"][:, 0] >= 0,
        0.2: drawn["grayscale"] == 2,
        0.5: drawn["sigma"] > 0,
        0.500001: drawn["flip"] == 1,
    }
    for probability, happened in shares.items():
        assert abs(happened.mean() - probability) < 0.02


def test_v1_grays_before_it_jitters_and_v2_after(photo):
    both = SETTINGS.model_copy(update={"jitter_p": 1.0, "grayscale_p": 1.0, "blur_p": 0.0, "brightness": 0.0})
    u = draw(0, 0, np.array([3]))[0, 0]
    v1, v2 = (choose(u, both.model_copy(update={"order": order})) for order in ("v1", "v2"))
    assert (v1["grayscale"], v2["grayscale"]) == (1, 2)
    drawn = {"order": v1["order"], "factors": v1["factors"]}
    before, after = (painted(photo, 32, grayscale=grayscale, **drawn) for grayscale in (1, 2))
    for view in (before, after):
        assert (view.max(axis=2) - view.min(axis=2)).max() <= 1
    assert not np.array_equal(before, after)


def test_a_flip_is_the_mirror_image_of_the_finished_view(photo):
    drawn = {"sigma": 1.0, "order": (1, 0, 3, 2), "factors": (1.2, 0.8, 1.1, 0.05)}
    assert np.array_equal(painted(photo, 32, flip=1, **drawn), painted(photo, 32, **drawn)[:, ::-1])


def test_two_views_of_a_sample_differ_and_come_again_the_same(photo):
    first, second = two_views(photo, SETTINGS, 32, seed=0, epoch=1, sample=5)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    again = two_views(photo, SETTINGS, 32, seed=0, epoch=1, sample=5)
    assert np.array_equal(first, again[0])
    assert np.array_equal(second, again[1])


def test_the_center_view_is_resize_and_center_crop(photo):
    theirs = tv.center_crop(tv.resize(Image.fromarray(photo), 64), [56, 56])
    assert psnr(center_view(photo, 56, 0.875), np.array(theirs)) > 45
    assert center_view(photo[:, :20], 32, 1.0).shape == (32, 32, 3)


def test_keys_of_different_parts_differ():
    assert len({int(key_of(*parts)) for parts in [(0, 0), (0, 1), (1, 0), (1, 1), (0,), (1,)]}) == 6
