"""Bytes to pixels."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from moco.images import decode as module
from moco.images.decode import UndecodableError, decode, turned

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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_image_is_turned_as_its_exif_orientation_says(kind, orientation):
    image = Image.fromarray(np.repeat(np.repeat(PIXELS // 128 * 255, 8, axis=0), 8, axis=1))
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(image, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as file:
        theirs = np.asarray(ImageOps.exif_transpose(file).convert("RGB")).astype(int)
        stored = np.asarray(file.convert("RGB")).astype(int)  # Pillow turns a TIFF at once
    assert np.abs(decode(data) - (stored if kind == "TIFF" else theirs)).mean() < 8
    assert np.abs(decode(data, as_stored=True) - stored).mean() < 8
    assert np.array_equal(turned(decode(data, as_stored=True), module.orientation(data)), decode(data))


def test_a_png_whose_exif_stands_behind_its_pixels_is_turned_alike_by_all():
    exif = Image.Exif()
    exif[0x112] = 6
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    at, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
    after = at + 12 + int.from_bytes(data[at : at + 4])
    late = data[:at] + data[after:end] + data[at:after] + data[end:]
    assert module.orientation(late) == 6
    assert np.array_equal(decode(late), turned(PIXELS, 6))
    with Image.open(io.BytesIO(late)) as file:
        assert module.orientation_of(file) == 6
        assert np.array_equal(np.asarray(file), PIXELS)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.linspace(0, 1, 117, dtype=np.float32), "32 bits or a sign"),
        (np.linspace(0, 9999, 117, dtype=np.float32), "32 bits or a sign"),
        (np.arange(117, dtype=np.int32), "32 bits or a sign"),
        (np.arange(117, dtype=np.uint16) * 35, "reach 4060 of 65535 and would be nearly black"),
    ],
)
def test_samples_of_an_unknown_range_are_refused_and_never_a_constant_picture(pixels, reason):
    with pytest.raises(UndecodableError, match=reason):
        decode(encoded(Image.fromarray(pixels.reshape(9, 13)), "TIFF"))


def test_sixteen_bit_colors_that_would_be_black_are_refused_and_a_black_picture_is_not():
    def png(brightest):
        return cv2.imencode(".png", np.full((9, 13, 3), brightest, np.uint16))[1].tobytes()

    assert decode(png(60_000)).max() == 60_000 // 256
    assert decode(png(0)).max() == 0
    with pytest.raises(UndecodableError, match="nearly black; scale them"):
        decode(png(3000))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42", "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "a camera's raw format"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw format"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"8BPS\0\x01", "Photoshop's PSD"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (bytes(128) + b"DICM", "DICOM"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_what_to_do(data, name):
    with pytest.raises(UndecodableError, match=f"^{name} is not read; convert it to JPEG or PNG$"):
        decode(data)


@pytest.mark.parametrize("tag", [254, 50706])
def test_a_raw_file_is_not_taken_for_its_thumbnail(tag):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tag] = 1 if tag == 254 else b"\1\4\0\0"
    with pytest.raises(UndecodableError, match="first page is a thumbnail"):
        decode(encoded(Image.fromarray(PIXELS), "TIFF", tiffinfo=info))


def claiming(side, progressive=False):
    """A small JPEG whose header says that it is square and this large."""
    data = bytearray(encoded(Image.fromarray(PIXELS), "JPEG", progressive=progressive))
    at = data.find(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = side.to_bytes(2) * 2
    return bytes(data)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_claims_more_than_it_holds_is_refused_without_decoding(progressive, monkeypatch):
    monkeypatch.delattr(module, "_decode_with_opencv")
    with pytest.raises(UndecodableError, match="65000 x 65000 pixels, more than the 239 million that a JPEG may have"):
        decode(claiming(65_000, progressive))
    with pytest.raises(UndecodableError, match=r"claims 9000 x 9000 pixels in \d+ bytes: damaged"):
        decode(claiming(9000, progressive))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_an_image_that_would_take_too_much_memory_is_refused_before_it_is_decoded(kind, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(UndecodableError, match=rf"13 x 9 pixels, more than the 0 million that a {kind} may have"):
        decode(encoded(Image.fromarray(PIXELS), kind))


def test_a_large_jpeg_is_decoded_at_half_its_sides(monkeypatch):
    image = Image.fromarray(PIXELS).resize((260, 180))
    whole = decode(encoded(image, "JPEG"))
    monkeypatch.setattr(module, "KEPT", 260 * 180 - 1)
    half = decode(encoded(image, "JPEG"))
    assert half.shape == (90, 130, 3)
    assert np.abs(half - whole.reshape(90, 2, 130, 2, 3).mean(axis=(1, 3))).mean() < 2
    assert decode(encoded(image, "JPEG"), as_stored=True).shape == (180, 260, 3)


def test_threads_never_decode_more_than_fits_together(monkeypatch):
    data = encoded(Image.fromarray(PIXELS), "PNG")
    needed = module._needed(data)
    assert needed == 9 * 13 * 12
    monkeypatch.setattr(module, "_ROOM", module._Room(2 * needed))
    at_once, most, lock = 0, 0, threading.Lock()

    def one(_):
        nonlocal at_once, most
        with module.decoded(data) as pixels:
            with lock:
                at_once, most = at_once + 1, max(most, at_once + 1)
            time.sleep(0.01)
            with lock:
                at_once -= 1
        return pixels

    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(pixels, PIXELS) for pixels in pool.map(one, range(24)))
    assert most == 2


def test_room_is_given_back_after_an_image_that_cannot_be_decoded(monkeypatch):
    data = encoded(Image.fromarray(np.tile(PIXELS, (9, 9, 1))), "PNG")
    monkeypatch.setattr(module, "_ROOM", module._Room(module._needed(data)))
    for _ in range(2):
        with pytest.raises(UndecodableError), module.decoded(data[:-200]):
            pass
    with module.decoded(data) as pixels:
        assert pixels.shape == (81, 117, 3)


def test_bands_of_an_image_are_joined_as_if_it_were_converted_at_once(monkeypatch):
    rgba = Image.fromarray(np.dstack([PIXELS, PIXELS[:, :, 0]]))
    gray = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257)
    files = [encoded(rgba, "PNG"), encoded(gray, "TIFF"), encoded(Image.fromarray(PIXELS), "BMP")]
    whole = [decode(data) for data in files]
    monkeypatch.setattr(module, "_BAND", 30)  # two lines
    assert all(np.array_equal(decode(data), pixels) for data, pixels in zip(files, whole, strict=True))


def test_colors_are_taken_as_they_are_whatever_profile_a_file_has():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(Image.fromarray(PIXELS), kind, icc_profile=profile)), PIXELS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_frames_and_pages_the_first_counts(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).mean(axis=(0, 1)) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("transform", [0, 2])  # of Adobe's marker: CMYK, YCCK
def test_cmyk_and_ycck_jpegs_have_pillows_colors(transform):
    data = bytearray(encoded(Image.fromarray(np.repeat(np.repeat(PIXELS, 8, 0), 8, 1)).convert("CMYK"), "JPEG"))
    at = data.find(b"Adobe")
    data[at + 11] = transform
    assert np.abs(decode(bytes(data)).astype(int) - module._decode_with_pillow(bytes(data))).mean() < 2


def test_a_file_that_is_larger_than_any_image_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_FILE", 2 * 10**6)
    (tmp_path / "image.png").write_bytes(bytes(2 * 10**6))
    assert len(module.read_encoded(tmp_path / "image.png")) == 2 * 10**6
    with (tmp_path / "film.mov").open("wb") as film:
        film.truncate(10**12)
    with pytest.raises(UndecodableError, match="larger than 2 MB"):
        module.read_encoded(tmp_path / "film.mov")


def test_a_chunk_that_claims_four_gigabytes_takes_none():
    import resource

    with io.BytesIO() as file:
        Image.fromarray(np.zeros((24, 32), np.uint8)).convert("P").save(file, "PNG")
        data = bytearray(file.getvalue())
    place = data.index(b"PLTE") - 4
    data[place : place + 4] = b"\xff\xff\xff\xf0"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UndecodableError):
        decode(bytes(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # kB
