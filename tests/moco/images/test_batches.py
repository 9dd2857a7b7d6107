"""Views of an encoded image, by either view backend."""

import io

import numpy as np
import pytest
from PIL import Image
from small_material import psnr, smooth_photo

from moco.config import load_params
from moco.images import batches, fused_views
from moco.images.batches import is_plain, views_of
from moco.images.decode import decode
from moco.images.views import draw

SETTINGS = load_params().pretrain.views


def jpeg(orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    Image.fromarray(smooth_photo(120, 200)).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def made(data: bytes, compiled: bool) -> np.ndarray:
    out = np.empty((2, 32, 32, 3), np.uint8)
    views_of(data, "a", draw(SETTINGS, 0, 0, np.arange(1))[0], out, compiled)
    return out


@pytest.mark.skipif(not fused_views.available(), reason="the compiled part is not built")
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_both_view_backends_see_an_image_turned_by_its_exif_orientation(orientation):
    data = jpeg(orientation)
    assert decode(data).shape == ((200, 120, 3) if orientation == 6 else (120, 200, 3))
    assert is_plain(data) == (orientation == 1)
    assert psnr(made(data, True), made(data, False)) > 35
    if orientation > 1:
        assert psnr(made(data, True), made(jpeg(), True)) < 35


@pytest.mark.skipif(not fused_views.available(), reason="the compiled part is not built")
def test_a_large_jpeg_is_shrunk_for_the_compiled_part_too(monkeypatch):
    data, whole = jpeg(), made(jpeg(), True)
    monkeypatch.setattr("moco.images.decode.KEPT", 100)
    monkeypatch.setattr(batches, "KEPT", 100)
    monkeypatch.delattr(fused_views, "views_of_jpeg")
    assert decode(data).shape == (60, 100, 3)
    assert psnr(made(data, True), whole) > 25
