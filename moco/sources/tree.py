"""The files below a folder, without what systems put beside people's own."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from moco.errors import MocoError

_NAS = {"@eadir", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot"}
_DESKTOPS = {"__macosx", "icon\r", "network trash folder", "temporary items", "lost+found", "$recycle.bin"}
_WINDOWS = {"system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}
SYSTEMS = _NAS | _DESKTOPS | _WINDOWS
"""Names in lower case of thumbnails, bins and notes that a NAS or a desktop puts among images."""


class LeftOut(Counter[str]):
    """How often each name of `SYSTEMS` was left out."""

    def __str__(self) -> str:
        """List the names, the most frequent first."""
        return ", ".join(f"{name.strip()} ({times})" for name, times in self.most_common())


def walk_tree(
    folder: Path, left_out: LeftOut | None = None, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Stream the paths of all files below a folder, sorted; follow links, but not in a circle.

    Hidden files and folders, and those of `SYSTEMS`, are left out.

    Args:
        folder: where to begin.
        left_out: receives the names of `SYSTEMS` that are met.
        prefix: of the paths.
        above: device and number of the folders that this one is in.
    """
    here = folder.stat()
    above |= {(here.st_dev, here.st_ino)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        raise MocoError(f"{folder}: no permission to read this folder; change its permissions") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.name.lower() in SYSTEMS:
            if left_out is not None:
                left_out[entry.name] += 1
        elif entry.is_dir():
            below = entry.stat()
            if (below.st_dev, below.st_ino) not in above:
                yield from walk_tree(folder / entry.name, left_out, f"{prefix}{entry.name}/", above)
        elif entry.is_file() or entry.is_symlink():
            yield prefix + entry.name
