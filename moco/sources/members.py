"""The samples of WebDataset tars, found by reading the headers of their members."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moco.errors import MocoError
from moco.sources.names import IMAGE_SUFFIXES

KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
"""WebDataset's rule: a sample's key is the path up to the base name's first dot, then its field."""
META = re.compile(r"__[^/]*__($|/)")
"""Members that WebDataset leaves out."""
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


@dataclass
class Sample:
    """Members of a tar with one key.

    Attributes:
        key: their names' common part.
        fields: offset and size of each, by the rest of its name.
        image: field of the first image, if there is one; of several one without a dot, else by the
            last suffix, as in `2020.jpg`.
        images: how many there are.
    """

    key: str
    fields: dict[str, tuple[int, int]] = field(default_factory=dict)
    image: str | None = None
    images: int = 0


def samples_of(path: Path) -> Iterator[Sample]:
    """Stream the samples of a tar.

    Raises:
        MocoError: it is damaged.
    """
    sample = Sample("")
    for name, offset, size in _regular(path):
        match = KEY.fullmatch(name)
        if META.match(name) or not match:
            continue
        if match[1] != sample.key:
            if sample.fields:
                yield sample
            sample = Sample(match[1])
        sample.fields.setdefault(match[2], (offset, size))
        if f".{match[2].lower().rpartition('.')[2]}" in IMAGE_SUFFIXES:
            if sample.image is None or ("." in sample.image and "." not in match[2]):  # c.jpg goes before c.seg.png
                sample.image = match[2]
            sample.images += 1
    if sample.fields:
        yield sample


def _regular(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the files in a tar."""
    total = path.stat().st_size
    damaged = f"{path}: damaged, or no plain tar"
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > total:
                    raise MocoError(f"{damaged} ({member.name} ends beyond it); restore it")
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                tar.members = []  # type: ignore[attr-defined]  # else they are all kept
            end = tar.offset
    except (tarfile.TarError, OSError) as error:
        raise MocoError(f"{damaged} ({error}); restore it") from None
    with path.open("rb") as file:  # tarfile ends in silence at a header that it cannot read
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise MocoError(f"{damaged} (no file's header at byte {end}); restore it")
