"""The table of docs/data.md says for each format what `decode` does; each line is tried here."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from moco.images.decode import UndecodableError, decode

TABLE = (Path(__file__).parents[3] / "docs/data.md").read_text().split("## What is an image")[1].split("##")[0]
ROWS = dict(line.strip("| ").split(" | ") for line in TABLE.splitlines() if line.startswith("| "))
PICTURE = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
RAMP = np.asarray(PICTURE.convert("L"))


def saved(kind: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x112] = 6
    return found


def ycck() -> bytes:
    data = bytearray(saved("JPEG", PICTURE.convert("CMYK")))
    data[data.find(b"Adobe") + 11] = 2
    return bytes(data)


def frames(kind: str) -> bytes:
    return saved(kind, save_all=True, append_images=[PICTURE.rotate(180)])


def thumbnail_first() -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    return saved("TIFF", tiffinfo=tags)


def claims(side: int) -> bytes:
    data = bytearray(saved("JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = side.to_bytes(2) * 2
    return bytes(data)


def boxes(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + 2 * brand


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
EXAMPLES = {
    "JPEG: gray, color, CMYK, YCCK": [*(saved("JPEG", PICTURE.convert(mode)) for mode in ("L", "RGB", "CMYK")), ycck()],
    "PNG, WebP, AVIF, BMP, PPM, TGA, JPEG 2000, ICO, GIF": [
        *(saved(kind) for kind in ("PNG", "WEBP", "AVIF", "BMP", "PPM", "TGA", "JPEG2000", "GIF")),
        saved("ICO", sizes=[PICTURE.size]),
    ],
    "TIFF of 8 bits": [saved("TIFF", PICTURE.convert(mode)) for mode in ("L", "RGB", "CMYK", "P", "1")],
    "EXIF orientation": [saved(kind, exif=exif()) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")],
    "an orientation that XMP alone states (`tiff:Orientation`)": [saved(kind, xmp=XMP) for kind in ("JPEG", "WEBP")],
    "alpha, a transparent color": [
        saved("PNG", PICTURE.convert("RGBA")),
        saved("PNG", PICTURE.convert("LA")),
        saved("GIF", PICTURE.convert("P"), transparency=0),
    ],
    "palette": [saved("PNG", PICTURE.convert("P"))],
    "16-bit samples": [saved(kind, Image.fromarray(RAMP.astype(np.uint16) * 257)) for kind in ("PNG", "TIFF")],
    "16-bit samples that all are below 4,096": [saved("PNG", Image.fromarray(RAMP.astype(np.uint16) * 16))],
    "32-bit, signed or float samples": [
        saved("TIFF", Image.fromarray(RAMP.astype(kind))) for kind in (np.int32, np.float32)
    ],
    "several frames or pages (GIF, WebP, PNG, TIFF)": [frames(kind) for kind in ("GIF", "WEBP", "PNG", "TIFF")],
    "an ICC profile": [saved(kind, icc_profile=PROFILE) for kind in ("JPEG", "PNG", "TIFF")],
    "a suffix of another format": [saved("PNG")],
    "HEIC, SVG, PSD, PDF, PostScript, JPEG XL, DICOM, a video": [
        boxes(b"heic"),
        b"<svg/>",
        b"8BPS",
        b"%PDF",
        b"%!PS",
        b"\xff\x0a",
        bytes(128) + b"DICM",
        boxes(b"isom"),
    ],
    "a camera's raw file, a TIFF whose first page is a thumbnail": [boxes(b"crx "), thumbnail_first(), b"IIRO"],
    "a JPEG that claims more pixels than its bytes can hold": [claims(10_000)],
    "more pixels than the limit": [claims(16_000)],
}


def test_the_table_has_the_lines_that_are_tried_and_no_others():
    assert set(ROWS) == {"in the file", *EXAMPLES}


@pytest.mark.parametrize("line", EXAMPLES)
def test_each_line_of_the_table_says_what_is_done(line):
    for data in EXAMPLES[line]:
        if ROWS[line].startswith("left out"):
            with pytest.raises(UndecodableError):
                decode(data)
        else:
            image = decode(data)
            assert image.shape == ((48, 32, 3) if "EXIF" in line else (32, 48, 3))
            if line not in ("EXIF orientation", "JPEG: gray, color, CMYK, YCCK"):
                brightness = image.mean(axis=(1, 2))  # the rows get brighter downwards
                assert brightness[-8:].mean() - brightness[4:12].mean() > 100 or "alpha" in line
