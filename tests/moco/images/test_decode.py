"""Bytes to pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from moco.images import decode as module
from moco.images.decode import UndecodableError, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {})]
)
def test_lossless_formats_come_back_as_they_were(kind, options):
    assert np.array_equal(decode(encoded(Image.fromarray(PIXELS), kind, **options)), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_usual_files_take_the_fast_way(kind, mode, monkeypatch):
    image = Image.fromarray(PIXELS).convert(mode)
    slow = module._decode_with_pillow(encoded(image, kind)).astype(int)
    monkeypatch.delattr(module, "_decode_with_pillow")
    assert np.abs(decode(encoded(image, kind)) - slow).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "I;16"])
def test_every_color_mode_becomes_rgb(mode):
    image = Image.fromarray(PIXELS).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    assert decode(data).shape == (9, 13, 3)
    assert decode(data).dtype == np.uint8


def test_sixteen_bit_grays_keep_their_brightness():
    gray = np.linspace(0, 65535, 117).astype(np.uint16).reshape(9, 13)
    assert np.array_equal(decode(encoded(Image.fromarray(gray), "PNG"))[:, :, 0], gray // 257)
    beyond = Image.fromarray(np.array([[-9, 70_000]], np.int32))
    assert decode(encoded(beyond, "TIFF"))[0, :, 0].tolist() == [0, 255]


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    pixels = decode(encoded(image, "PNG"))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_truncated_file_is_refused_in_silence(kind, capfd):
    data = encoded(Image.fromarray(np.tile(PIXELS, (9, 9, 1))), kind)
    with pytest.raises(UndecodableError):
        decode(data[: len(data) * 2 // 3])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\nIEND"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UndecodableError) as error:
        decode(data)
    assert "0x" not in str(error.value)  # reasons are kept in a tracked file: no address in memory


def test_a_jpeg_with_a_film_behind_its_end_is_an_image():
    data = encoded(Image.fromarray(PIXELS), "JPEG")
    assert decode(data + bytes(10_000)).shape == (9, 13, 3)  # phones append one
