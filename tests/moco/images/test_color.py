"""Color operations against torchvision's on floats, given the same factors and order."""

import itertools

import numpy as np
import pytest
import torch
from small_material import psnr, smooth_photo
from torchvision.transforms.v2 import functional as tv

from moco.images.color import grayscale, jitter

OPERATIONS = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
FACTORS = [(1.3, 0.7, 1.35, -0.08), (0.6, 1.4, 0.62, 0.1), (1.0, 1.0, 1.0, 0.5), (0.0, 1.2, 0.0, -0.5)]


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter_is_torchvisions_given_the_same_factors_and_order(order, factors):
    photo = smooth_photo(90, 120)
    theirs = torch.from_numpy(photo).permute(2, 0, 1).float() / 255  # float: no rounding between operations
    for operation in order:
        theirs = OPERATIONS[operation](theirs, factors[operation])
    ours = photo.copy()
    jitter(ours, np.array(order, np.int32), np.array(factors, np.float32))
    assert psnr(ours, (theirs * 255).permute(1, 2, 0).numpy()) > 45


def test_grays_white_and_black_survive_a_hue_shift():
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(2, axis=0)
    turned = image.copy()
    jitter(turned, np.array([3, 0, 1, 2], np.int32), np.array([1, 1, 1, 0.3], np.float32))
    assert np.array_equal(turned, image)


def test_grayscale_is_torchvisions_to_a_level():
    photo = smooth_photo(31, 17)
    theirs = tv.rgb_to_grayscale(torch.from_numpy(photo).permute(2, 0, 1), num_output_channels=3)
    ours = photo.copy()
    grayscale(ours)
    assert np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy().astype(int)).max() <= 1
    assert (ours[:, :, 0] == ours[:, :, 2]).all()
