"""The compiled view backend against the plain one, and against what reaches it."""

import io
import itertools
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter
from small_material import psnr, whole_view

from moco.config import load_params
from moco.images import fused_views
from moco.images.decode import decode
from moco.images.fused_views import jpeg_size, views_of_jpeg, views_of_pixels
from moco.images.views import draw, paint

pytestmark = pytest.mark.skipif(
    not fused_views.available(),
    reason="the compiled part is not built: no C++ compiler or no libjpeg-turbo when the package was installed",
)
SETTINGS = load_params().pretrain.views.model_copy(
    update={"jitter_p": 0.8, "grayscale_p": 0.2, "blur_p": 0.5, "flip_p": 0.5, "crop_scale_min": 0.2}
)
SUBSAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth color fields with an edge and some grain."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 40, 90)
    return np.clip(pixels + random.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def drawn(height: int, width: int, count: int, seed: int = 0, **settings: object) -> np.ndarray:
    return draw(SETTINGS.model_copy(update=settings), seed, 0, np.array([0]), views=count)[0].placed(height, width)


def painted(image: np.ndarray | bytes, views: np.ndarray, size: int) -> np.ndarray:
    out = np.empty((len(views), size, size, 3), np.uint8)
    if isinstance(image, bytes):
        assert views_of_jpeg(image, views, out)
    else:
        views_of_pixels(image, views, out)
    return out


@pytest.mark.parametrize("kind", [*SUBSAMPLINGS, "gray"])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_decoded_region_is_cut_from_the_whole_image(kind, progressive):
    random = np.random.default_rng(1)
    for height, width in ((61, 133), (150, 97), (16, 200), (1, 1)):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, height % 3]
        if kind == "gray":
            pixels = pixels[:, :, 0]
        else:
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[kind]]
        data = cv2.imencode(".jpg", pixels, options)[1].tobytes()
        whole = decode(data)
        assert jpeg_size(data) == (height, width)
        for _ in range(30):
            side = int(random.integers(1, min(height, width) + 1))
            top, left = (int(random.integers(length - side + 1)) for length in (height, width))
            region = painted(data, whole_view(side, side, top=top, left=left), side)[0]  # its own size: not resized
            assert np.array_equal(region, whole[top : top + side, left : left + side])


def test_resizing_keeps_a_plain_color():
    for level in (0, 1, 127, 254, 255):
        image = np.full((200, 333, 3), level, np.uint8)
        for size, sigma in itertools.product((1, 2, 50, 333, 400), (0, 0.1, 2.0, 90.0)):
            assert (painted(image, whole_view(200, 333, sigma=sigma), size) == level).all()


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 9.0])
def test_blur_is_the_gaussian(sigma):
    image, side = photo(96, 96), 2 * int(np.ceil(3 * sigma)) + 1
    ours = painted(image, whole_view(96, 96, sigma=sigma), 96)[0]
    exact = cv2.GaussianBlur(image.astype(np.float32), (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(ours - exact).max() < 0.6
    if sigma <= 2:  # beyond, Pillow's own approximation is too far off
        pillows = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        assert psnr(ours, pillows) > 45


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("size", [224, 61, 32])
def test_views_are_those_of_the_plain_backend(recipe, size):
    similarities = []
    for number, (height, width) in enumerate([(375, 500), (500, 333), (80, 100), (28, 28), (90, 999), (5, 7)]):
        data = encoded(photo(height, width, number), subsampling=number % 3, progressive=number % 2 == 1)
        views = drawn(height, width, 24, number, order=recipe)
        theirs = np.empty((24, size, size, 3), np.uint8)
        paint(decode(data), views, theirs)
        similarities += [psnr(a, b) for a, b in zip(painted(data, views, size), theirs, strict=True)]
    # A level of rounding in the resize is worth 50 dB and more, which jitter can make two.
    assert min(similarities) > 48
    assert np.median(similarities) > 52


def test_pixels_and_jpegs_give_the_same_views():
    data = encoded(photo(120, 160))
    views = drawn(120, 160, 16)
    assert np.array_equal(painted(data, views, 48), painted(decode(data), views, 48))


def test_a_flip_mirrors():
    image = photo(70, 90)
    for size in (1, 2, 3, 4, 5, 6, 7, 64):
        straight, mirrored = (painted(image, whole_view(70, 90, flip=flip, sigma=1.0), size) for flip in (0, 1))
        assert np.array_equal(straight[:, :, ::-1], mirrored)


def test_threads_and_what_came_before_change_nothing():
    images = [encoded(photo(height, 150, height)) for height in (40, 200, 90, 140)]
    jobs = [
        (data, drawn(*jpeg_size(data), 2, seed), size)
        for data, seed, size in zip(images * 8, range(32), itertools.cycle([64, 33, 224]), strict=False)
    ]
    alone = [painted(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: painted(*job), reversed(jobs)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, reversed(together), strict=True))


def test_views_are_written_where_they_belong_and_nowhere_else():
    image = photo(90, 120)
    for size in (1, 5, 30, 33):
        batch = np.full((2, 3, size, size, 3), 77, np.uint8)  # queries and keys of three images
        views = drawn(90, 120, 2)
        views_of_pixels(image, views, batch[:, 1])
        assert np.array_equal(batch[:, 1], painted(image, views, size))
        assert (batch[:, [0, 2]] == 77).all()


def test_what_the_decoder_does_not_take_has_no_size():
    png, cmyk = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo(20, 20)).save(png, "PNG")
    Image.fromarray(photo(20, 20)).convert("CMYK").save(cmyk, "JPEG")
    data = encoded(photo(20, 20))
    for other in (b"", b"hello", b"\xff\xd8\xff\xd9", png.getvalue(), cmyk.getvalue(), data[:100], data[2:]):
        assert jpeg_size(other) is None
        assert not views_of_jpeg(other + b"\xff\xd9", whole_view(20, 20), np.empty((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_file_is_refused_in_silence(progressive, capfd):
    data, random = encoded(photo(96, 96), progressive=progressive), np.random.default_rng(0)
    views, out = whole_view(96, 96), np.empty((1, 96, 96, 3), np.uint8)
    for cut in random.integers(0, len(data) - 8, 100):
        assert not views_of_jpeg(data[:cut], views, out)
        assert not views_of_jpeg(data[:cut] + b"\xff\xd9", views, out)
    said = capfd.readouterr()
    assert said.err == said.out == ""


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_file_is_refused_or_decoded_as_ordinarily(progressive):
    data, random = encoded(photo(96, 96), progressive=progressive), np.random.default_rng(0)
    views, out, taken = whole_view(96, 96), np.empty((1, 96, 96, 3), np.uint8), 0
    for _ in range(400):
        damaged = bytearray(data)
        damaged[random.integers(len(data) - 2)] ^= 1 << random.integers(8)
        if jpeg_size(bytes(damaged)) == (96, 96) and views_of_jpeg(bytes(damaged), views, out):
            assert np.array_equal(out[0], decode(bytes(damaged)))
            taken += 1
    assert 0 < taken < 400


@pytest.mark.parametrize(
    "values",
    [
        {"top": 1},
        {"left": -1},
        {"width": 0},
        {"width": 2**31 - 1},
        {"sigma": np.nan},
        {"sigma": -1},
        {"order": (0, 1, 2, 2)},
        {"order": (0, 1, 2, 9)},
        {"order": (0, 1, 2, 3), "factors": (1, np.inf, 1, 0)},
    ],
)
def test_what_cannot_have_been_drawn_is_refused(values):
    image, out = photo(20, 30), np.empty((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="views: "):
        views_of_pixels(image, whole_view(20, 30, **values), out)
    with pytest.raises(ValueError, match="views: "):
        views_of_jpeg(encoded(image), whole_view(20, 30, **values), out)


def test_an_output_that_does_not_fit_is_refused():
    image, views = photo(20, 30), whole_view(20, 30)
    for out in (
        np.empty((2, 8, 8, 3), np.uint8),
        np.empty((1, 8, 9, 3), np.uint8),
        np.empty((1, 8, 8, 3), np.float32),
        np.empty((1, 3, 8, 8), np.uint8).transpose(0, 2, 3, 1),
    ):
        with pytest.raises(ValueError, match="out: "):
            views_of_pixels(image, views, out)
