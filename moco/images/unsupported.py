"""Formats that hold images and are not read: their names, by the first bytes of a file."""

import re

ADVICE = "convert it to JPEG or PNG"

_FIRST_BYTES = {
    b"8BPS": "Photoshop's PSD",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"\x93NUMPY": "NumPy's format",
    b"\x89HDF": "HDF5",
    b"SIMPLE  =": "FITS",
    b"IIRO": "a camera's raw format",
    b"IIRS": "a camera's raw format",
    b"MMOR": "a camera's raw format",
    b"IIU\0": "a camera's raw format",
    b"FUJIFILM": "a camera's raw format",
    b"FOVb": "a camera's raw format",
    b"\0MRM": "a camera's raw format",
}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SVG = re.compile(rb"\s*(\xef\xbb\xbf)?\s*<(svg|\?xml|!--|!DOCTYPE svg).*", re.DOTALL)


def unsupported(data: bytes) -> str | None:
    """Name the format of a file's bytes if it holds images and is not read, else None."""
    if data[4:8] == b"ftyp":
        return _of_boxes(data)
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[:4] in (b"II*\0", b"MM\0*") and data[8:10] == b"CR":
        return "a camera's raw format"
    if b"<svg" in (start := data[:4096]) and _SVG.fullmatch(start):
        return "SVG"
    return next((name for first, name in _FIRST_BYTES.items() if data.startswith(first)), None)


def _of_boxes(data: bytes) -> str | None:
    """Name a format of ISO's boxes; AVIF is one too, and is read."""
    size = int.from_bytes(data[:4])
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(size, 256), 4))}
    if brands & {b"avif", b"avis"}:
        return None
    if data[8:12] == b"crx ":
        return "a camera's raw format"
    return "HEIC" if brands & _HEIC else "a video"
