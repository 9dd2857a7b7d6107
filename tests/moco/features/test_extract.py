"""Images to features: decoded ones of a notebook, and the cache of those of a shard set."""

import numpy as np
import pytest
from small_material import write_gray_numbers

from moco.encoders.frozen import EncoderSpec, FrozenEncoder, random_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.features.extract import Extractor, embed_images, pixels
from moco.images.index import open_split

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def encoder() -> FrozenEncoder:
    dim = ResNet("thin", "small").feature_dim
    return random_encoder(
        EncoderSpec(network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, dim, "test"), 0
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_the_same_images(encoder, kind):
    expected = embed_images(encoder, list(IMAGES))
    assert np.array_equal(embed_images(encoder, IMAGES), expected)
    scaled = (IMAGES / 255).astype(kind)
    assert np.array_equal(np.rint(scaled.astype(np.float64) * 255), IMAGES)
    assert np.array_equal(embed_images(encoder, list(scaled)), expected)


NORMALIZED = (IMAGES[1] / 255 - IMAGENET_MEAN) / IMAGENET_STD


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (IMAGES[1].astype(np.float32), r"image 1: has float32 from 0 to 255; give floats from 0 to 1, or uint8"),
        (NORMALIZED, r"image 1: has float64 from -2\.\d+ to 2\.\d+; give"),
        (np.full((9, 9, 3), np.nan), "image 1: has float64 from nan to nan"),
        (IMAGES[1].astype(np.int64), "image 1: is of int64; give uint8, or floats from 0 to 1"),
        (IMAGES[1] > 9, "image 1: is of bool"),
        (IMAGES[1].transpose(2, 0, 1), r"image 1: is of shape \(3, 20, 24\); give height x width x 3, RGB"),
        (IMAGES[1, ..., 0], r"image 1: is of shape \(20, 24\)"),
        (np.zeros((9, 9, 4), np.uint8), r"image 1: is of shape \(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), r"image 1: is of shape \(0, 9, 3\)"),
    ],
)
def test_another_range_type_or_shape_is_refused_with_the_place_of_the_image(encoder, wrong, said):
    with pytest.raises(MocoError, match=said):
        embed_images(encoder, [IMAGES[0], wrong])


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"nonsense" * 99, lambda b: b[:-4]]
)
def test_a_damaged_cache_is_made_again(tmp_path, damage, capsys):
    (tmp_path / "set").mkdir()
    split = open_split(write_gray_numbers(tmp_path / "set"), "val")
    extractor = Extractor("pixels", pixels, "pixels", 8, 1.0, cache=tmp_path / "cache")
    indices = np.arange(len(split))
    expected = extractor.center(split, indices).copy()
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(damage(cached.read_bytes()))
    capsys.readouterr()
    assert np.array_equal(extractor.center(split, indices), expected)
    assert f"{cached} is damaged and made again" in capsys.readouterr().err
    assert np.array_equal(extractor.center(split, indices), expected)
    assert capsys.readouterr().err == ""
