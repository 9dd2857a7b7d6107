"""Names of files that claim an image."""

from pathlib import Path

IMAGE_SUFFIXES = {
    "",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".ppm",
} | {".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".ico", ".tga"}


def is_image_name(path: str) -> bool:
    """Tell whether a name claims an image; that of a video or a text beside the images does not."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES
