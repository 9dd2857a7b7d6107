"""The random views against the recipes that they restate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as tv

from moco.config import load_params
from moco.images import views
from moco.images.plan import key_of
from moco.images.views import centre_view, crop_box, draw, jitter, random_view, resize, two_views

SETTINGS = load_params(Path(__file__).parents[3] / "params.yaml").pretrain.views.model_copy(
    update={"blur_p": 0.5}
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth colour fields with edges, 90 x 120."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((120, 90), Image.Resampling.BICUBIC))
    pixels[20:50, 30:70] = (200, 40, 90)
    return pixels


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


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
    import torchvision
    from scipy.stats import ks_2samp

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
    for measure in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.001
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


def test_a_crop_that_never_fits_is_the_largest_central_one():
    top, left, height, width = crop_box(np.full(32, 0.999999), 10, 200, 1.0)
    assert (height, width) == (10, 13)
    assert (top, left) == (0, 93)


def test_resizing_is_pillows_antialiased_bilinear(photo):
    for size in ((28, 28), (200, 150)):
        theirs = np.array(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))
        assert psnr(resize(photo, *size), theirs) > 50


@pytest.mark.parametrize("order", list(views._ORDERS))
def test_jitter_is_torchvisions_given_the_same_factors_and_order(photo, order):
    factors = np.array([1.3, 0.7, 1.35, -0.08])
    operations = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    theirs = torch.from_numpy(photo).permute(2, 0, 1).float() / 255  # float: no rounding between operations
    for operation in order:
        theirs = operations[operation](theirs, float(factors[operation]))
    ours = photo.copy()
    jitter(ours, order, factors)
    assert psnr(ours, (theirs * 255).permute(1, 2, 0).numpy()) > 45


def test_blur_is_pillows(photo):
    always = SETTINGS.model_copy(update={"blur_p": 1.0, "jitter_p": 0.0, "grayscale_p": 0.0, "flip_p": 0.0})
    u = draw(0, 0, np.array([0]))[0, 0]
    sigma = float(0.1 + 1.9 * u[31])
    unblurred = random_view(photo, always.model_copy(update={"blur_p": 0.0}), 64, u)
    theirs = np.array(Image.fromarray(unblurred).filter(ImageFilter.GaussianBlur(sigma)))
    assert psnr(random_view(photo, always, 64, u), theirs) > 40


def test_each_operation_comes_as_often_as_its_probability(photo):
    never = {"jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0, "flip_p": 0.0}
    numbers = draw(0, 0, np.arange(2000), views=1)[:, 0]
    small = resize(photo, 24, 24)
    for name, probability in (("jitter_p", 0.8), ("grayscale_p", 0.2), ("blur_p", 0.5), ("flip_p", 0.5)):
        plain = SETTINGS.model_copy(update=never)
        one = SETTINGS.model_copy(update=never | {name: probability})
        changed = np.mean(
            [
                not np.array_equal(random_view(small, plain, 24, u), random_view(small, one, 24, u))
                for u in numbers[:600]
            ]
        )
        assert abs(changed - probability) < 0.07, name


def test_v1_greys_before_it_jitters_and_v2_after(photo):
    both = SETTINGS.model_copy(update={"jitter_p": 1.0, "grayscale_p": 1.0, "blur_p": 0.0, "brightness": 0.0})
    u = draw(0, 0, np.array([3]))[0, 0]
    v1 = random_view(photo, both.model_copy(update={"order": "v1"}), 32, u)
    v2 = random_view(photo, both, 32, u)
    for view in (v1, v2):
        assert (view.max(axis=2) - view.min(axis=2)).max() <= 1
    assert not np.array_equal(v1, v2)


def test_two_views_of_a_sample_differ_and_come_again_the_same(photo):
    first, second = two_views(photo, SETTINGS, 32, seed=0, epoch=1, sample=5)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    again = two_views(photo, SETTINGS, 32, seed=0, epoch=1, sample=5)
    assert np.array_equal(first, again[0])
    assert np.array_equal(second, again[1])


def test_the_centre_view_is_resize_and_centre_crop(photo):
    theirs = tv.center_crop(tv.resize(Image.fromarray(photo), 64), [56, 56])
    assert psnr(centre_view(photo, 56, 0.875), np.array(theirs)) > 45
    assert centre_view(photo[:, :20], 32, 1.0).shape == (32, 32, 3)


def test_keys_of_different_parts_differ():
    assert len({int(key_of(*parts)) for parts in [(0, 0), (0, 1), (1, 0), (1, 1), (0,), (1,)]}) == 6
