"""Room on disk, and folders that appear whole or not at all."""

import errno
import shutil
from pathlib import Path

from moco.errors import MocoError

MARGIN = 64 * 10**6  # bytes left over: a file system filled to the brim fails in places far from here


def readable(size: float) -> str:
    """A number of bytes in the largest decimal unit that suits it: `3.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def require_free(path: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes are free where `path` is, or will be.

    Raises:
        MocoError: less is free; names `what` fills the disk, the need, what is free and the remedy.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + MARGIN:
        raise MocoError(
            f"{path}: {what} needs about {readable(needed + MARGIN)}, {readable(free)} are free there;"
            " free some space or work on a larger disk"
        )


def move_folder(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`: by rename, or by a copy and a rename across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(target.name + ".part")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        copy.rename(target)
        shutil.rmtree(source)
