import io

import numpy as np
import pytest
from PIL import Image
from small_material import photographs

from moco.survey.measure import HASHED, measure, phash


def record(pixels: np.ndarray, data: bytes = b"file") -> np.void:
    return measure([(data, pixels.copy())], 1)[0]


def test_the_hash_is_that_of_imagehash_for_the_same_gray_copy():
    imagehash = pytest.importorskip("imagehash")
    generator = np.random.default_rng(0)
    smooth = [
        np.asarray(Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8)).resize((HASHED, HASHED)))
        for _ in range(20)
    ]
    found, _ = phash(np.stack(smooth).astype(np.float32))
    theirs = [int(str(imagehash.phash(Image.fromarray(gray))), 16) for gray in smooth]
    assert found.tolist() == theirs


def test_the_mirror_hash_is_the_hash_of_the_mirror_image():
    photo = photographs()[0]
    assert record(photo)["mirrored"] == record(np.ascontiguousarray(photo[:, ::-1]))["hash"]
    assert record(photo)["mirrored"] != record(photo)["hash"]


def test_a_recompressed_copy_has_nearly_the_same_hash_and_another_photograph_has_not():
    one, other = photographs()
    file = io.BytesIO()
    Image.fromarray(one).resize((320, 214)).save(file, "JPEG", quality=40)
    copy = record(np.asarray(Image.open(file)))
    assert np.bitwise_count(record(one)["hash"] ^ copy["hash"]) <= 4
    assert np.bitwise_count(record(one)["hash"] ^ record(other)["hash"]) > 12


def test_sizes_format_and_content_are_those_of_the_file():
    found = record(np.zeros((20, 30, 3), np.uint8), b"\x89PNG and more")
    assert (found["height"], found["width"], found["bytes"], found["format"]) == (20, 30, 13, 2)
    assert found["content"] != record(np.zeros((20, 30, 3), np.uint8), b"\x89PNG and less")["content"]


def test_brightness_tells_dark_and_bright_images_and_one_with_both():
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = 255
    dark, bright, both = record(half // 8), record(255 - half // 8), record(half)
    assert dark["bright"] < 0.15 < both["bright"]
    assert bright["dark"] > 0.85 > both["dark"]
    assert both["mean"] == pytest.approx(0.5, abs=0.01)


def test_a_blurred_photograph_is_less_sharp_and_a_larger_copy_is_as_sharp():
    photo = photographs()[0]
    size = (photo.shape[1], photo.shape[0])
    blurred = np.asarray(Image.fromarray(photo).resize((16, 10)).resize(size, Image.Resampling.BICUBIC))
    larger = np.asarray(Image.fromarray(photo).resize((2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC))
    assert record(blurred)["sharpness"] < 0.03 < record(photo)["sharpness"] / 3
    assert record(larger)["sharpness"] == pytest.approx(record(photo)["sharpness"], rel=0.1)


def test_a_plain_area_has_neither_contrast_nor_sharpness():
    found = record(np.full((20, 20, 3), 77, np.uint8))
    assert found["contrast"] == found["sharpness"] == 0
