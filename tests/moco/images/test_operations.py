"""The operations of a view: official distributions, independent, painted as others paint them."""

import io
import random

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from small_material import psnr, smooth_photo

from moco.config import Views, load_params
from moco.images import fused_views, operations
from moco.images.batches import views_of
from moco.images.draws import Draws
from moco.images.operations import FUSED, VIEW, Operation, choose, paint_operations
from moco.images.views import draw

SETTINGS = load_params().pretrain.views.model_copy(update={"blur_p": 0.5, "flip_p": 0.5})
PHOTO = smooth_photo(64, 64)


def chosen(count: int, **changes: object) -> np.ndarray:
    return choose(Draws.of(1, 0, np.arange(count), views=1), SETTINGS.model_copy(update=changes))[:, 0]


def painted(image: np.ndarray = PHOTO, **drawn: object) -> np.ndarray:
    """An image with these values drawn, and nothing else."""
    view = np.zeros(1, VIEW)
    view["order"] = -1
    for name, value in drawn.items():
        view[name] = value
    out = image[None].copy()
    paint_operations(view, out)
    return out[0]


def test_jitter_and_blur_have_the_official_distributions():
    count, strengths = 4000, {"brightness": 0.4, "contrast": 1.2, "saturation": 0.3, "hue": 0.1}
    ours = chosen(count, jitter_p=1.0, blur_p=1.0, blur_sigma_min=0.3, **strengths)
    torch.manual_seed(0)
    official = torchvision.transforms.ColorJitter(*strengths.values())
    ranges = (official.brightness, official.contrast, official.saturation, official.hue)
    theirs = [official.get_params(*ranges) for _ in range(count)]
    orders = np.array([order.tolist() for order, *_ in theirs])
    for place in range(4):
        assert ks_2samp(ours["order"][:, place], orders[:, place]).pvalue > 0.001
    assert len({tuple(order) for order in ours["order"].tolist()}) == 24
    for operation in range(4):
        factors = [each[1 + operation] for each in theirs]
        assert ks_2samp(ours["factors"][:, operation], factors).pvalue > 0.001
    numbers = random.Random(0)
    assert ks_2samp(ours["sigma"], [numbers.uniform(0.3, 2.0) for _ in range(count)]).pvalue > 0.001


def test_each_operation_comes_as_often_as_its_probability():
    drawn = chosen(8000, jitter_p=0.8, grayscale_p=0.2, blur_p=0.5, flip_p=0.4)
    shares = {
        0.8: (drawn["order"] != -1).all(axis=1),
        0.2: drawn["grayscale"] != 0,
        0.5: drawn["sigma"] > 0,
        0.4: drawn["flip"] == 1,
    }
    for probability, happened in shares.items():
        assert abs(happened.mean() - probability) < 0.02


def test_no_two_drawn_values_of_a_view_are_related():
    """As they would be if two operations shared a random number."""
    drawn = draw(SETTINGS.model_copy(update={"jitter_p": 0.5, "grayscale_p": 0.5}), 0, 0, np.arange(20_000), views=1)
    values = drawn.chosen[:, 0]
    jittered, blurred = values["order"][:, 0] >= 0, values["sigma"] > 0
    always = choose(
        Draws.of(0, 0, np.arange(20_000), views=1), SETTINGS.model_copy(update={"jitter_p": 1, "blur_p": 1})
    )
    columns = [*drawn.crops[:, 0].T, jittered, *values["factors"].T, values["grayscale"], blurred, values["flip"]]
    columns += [*always["order"][:, 0].T[:3], always["sigma"][:, 0]]
    related = np.abs(np.corrcoef(np.array(columns, float)) - np.eye(len(columns)))
    related[-4:-1, -4:-1] = 0  # places in a permutation exclude each other
    assert related.max() < 0.04


@pytest.mark.parametrize("sigma", [0.1, 0.37, 0.8, 1.4, 2.0])
def test_blur_is_pillows(sigma):
    image = smooth_photo(224, 224)
    theirs = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
    assert psnr(painted(image, sigma=sigma), np.array(theirs)) > 45


def test_blur_reaches_three_standard_deviations():
    line = np.zeros((9, 31, 3), np.uint8)
    line[:, 15] = 255
    assert np.flatnonzero(painted(line, sigma=2.0)[4, :, 0]).tolist() == list(range(9, 22))


def test_v1_grays_before_it_jitters_and_v2_after():
    drawn = {"order": (3, 0, 1, 2), "factors": (1.2, 0.8, 1.3, 0.4)}
    for recipe, grayscale in (("v1", 1), ("v2", 2)):
        assert chosen(1, grayscale_p=1.0, order=recipe)["grayscale"] == grayscale
        view = painted(grayscale=grayscale, **drawn)
        steps = [{"grayscale": 1}, drawn] if recipe == "v1" else [drawn, {"grayscale": 1}]
        assert np.array_equal(view, painted(painted(**steps[0]), **steps[1]))
        assert (view.max(axis=2) - view.min(axis=2)).max() <= 1
    assert not np.array_equal(painted(grayscale=1, **drawn), painted(grayscale=2, **drawn))


def test_what_does_not_happen_leaves_the_image_as_it_is():
    drawn = {"factors": (1.2, 0.8, 1.1, 0.3), "order": (0, 1, 2, 3)}
    assert np.array_equal(painted(**drawn | {"order": (-1, 0, 1, 2)}), PHOTO)
    assert not np.array_equal(painted(**drawn), PHOTO)


def test_a_flip_is_the_mirror_image_of_the_finished_view():
    drawn = {"sigma": 1.0, "order": (1, 0, 3, 2), "factors": (1.2, 0.8, 1.1, 0.05)}
    assert np.array_equal(painted(flip=1, **drawn), painted(**drawn)[:, ::-1])


class MoreViews(Views):
    """The settings with an operation added."""

    solarize_p: float


def choose_solarize(draws: Draws, settings: MoreViews, drawn: np.ndarray) -> None:
    (happens,) = draws("solarize", 1)
    drawn["solarize"] = happens < settings.solarize_p


def paint_solarize(image: np.ndarray, view: np.void) -> None:
    if view["solarize"]:
        np.subtract(255, image, out=image, where=image >= 128)


class TestAnAddedOperation:
    @pytest.fixture
    def more(self, monkeypatch):
        """Settings for views, half of them solarized."""
        added = Operation([("solarize", "<i4")], choose_solarize, paint_solarize)
        monkeypatch.setattr(operations, "OPERATIONS", (*FUSED, added))
        return MoreViews(**SETTINGS.model_dump(), solarize_p=0.5)

    def test_changes_nothing_that_the_others_draw(self, more, monkeypatch):
        after = draw(more, 0, 3, np.arange(50))
        monkeypatch.undo()
        before = draw(SETTINGS, 0, 3, np.arange(50))
        assert before.chosen.dtype == VIEW
        assert np.array_equal(before.crops, after.crops)
        for name in VIEW.names:
            assert np.array_equal(before.chosen[name], after.chosen[name]), name
        assert 30 < after.chosen["solarize"].sum() < 70

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_is_painted_after_the_others_by_either_backend(self, kind, compiled, more, monkeypatch):
        if compiled and not fused_views.available():
            pytest.skip("the compiled part is not built")
        file, out, samples = io.BytesIO(), np.empty((2, 6, 20, 20, 3), np.uint8), np.array([4])
        Image.fromarray(PHOTO).save(file, kind)
        drawn = draw(more, 0, 0, samples, views=6)[0]
        views_of(file.getvalue(), "", drawn, out[0], compiled)
        monkeypatch.undo()
        views_of(file.getvalue(), "", draw(SETTINGS, 0, 0, samples, views=6)[0], out[1], compiled)
        solarized = drawn.chosen["solarize"][:, None, None, None] * (out[1] >= 128)
        assert 0 < solarized.sum() < (out[1] >= 128).sum()
        assert np.array_equal(out[0], np.where(solarized, 255 - out[1], out[1]))
