"""A folder of images."""

import os
from collections.abc import Iterator
from pathlib import Path

from moco.config import Fetch
from moco.errors import MocoError
from moco.sources.source import Files, Found


def find(settings: Fetch) -> Files:
    """Find the files of the folder; its folders name the classes, or nothing does."""
    path, labelled = Path(settings.path), settings.labels == "folders"
    if not path.is_dir():
        raise MocoError(f"fetch.path = {str(path)!r}: no such folder; name the folder that holds your images")
    if next(walk_tree(path), None) is None:
        raise MocoError(f"fetch.path = {str(path)!r}: the folder holds no files; put your images there")

    def walk() -> Found:
        for name in walk_tree(path):
            first, slash, _ = name.partition("/")
            yield name, first if labelled and slash else "", "all"

    return Files(str(path), walk)


def walk_tree(folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Stream the paths of all files below a folder, sorted; follow links, but not in a circle."""
    here = folder.stat()
    above |= {(here.st_dev, here.st_ino)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        raise MocoError(f"{folder}: no permission to read this folder; change its permissions") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            below = entry.stat()
            if (below.st_dev, below.st_ino) not in above:
                yield from walk_tree(folder / entry.name, f"{prefix}{entry.name}/", above)
        elif entry.is_file() or entry.is_symlink():
            yield prefix + entry.name
