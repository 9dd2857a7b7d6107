"""What a folder of images holds, as the stages will take it: told in seconds, without torch."""

import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import quantiles
from typing import Literal, NamedTuple, TypeVar

from moco.config import Fetch
from moco.cores import cores
from moco.errors import MocoError, os_error_in_one_line
from moco.files import readable
from moco.images.decode import Header, UndecodableError, decode, header_of
from moco.sources.names import is_image_name
from moco.sources.open import open_source
from moco.sources.source import Arrays, File
from moco.sources.tars import PACKED
from moco.sources.tree import walk_tree
from moco.text import one_line, printable

SECONDS = 8.0
"""For the headers of all files, and as much again each for pixels and for copies."""
NAMED = 5
LISTS = (".csv", ".tsv", ".parquet", ".pq")
DRAWN = Fetch(source="folder", path=".", labels="folders", val_fraction=0.1, test_fraction=0.1, split_seed=0)
"""What `moco init` writes: shares of a set that names no splits."""

T = TypeVar("T")
R = TypeVar("R")


class Bad(NamedTuple):
    """A file that will not be taken, and why."""

    path: str
    why: str


@dataclass
class Looked:
    """What was found.

    Attributes:
        settings: of the stage fetch, as the folder's layout suggests.
        notes: what a person should know of how the layout was read.
        files: that the source found.
        bytes: of the images whose headers were read.
        read: files whose headers were read, of `files`.
        headers: of the images among them.
        labels: how many images each class has; the empty one is unlabelled.
        parts: how many images each part has; `all` is split by drawing.
        bad: images by name that cannot be taken.
        others: suffixes of files that claim to be no image, and are none.
        decoded: images whose pixels were decoded too.
        copies: images that are exact copies of another, among those that were compared.
        compared: images whose content was compared.
    """

    settings: Fetch
    notes: list[str]
    files: int = 0
    bytes: int = 0
    read: int = 0
    headers: list[Header] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    bad: list[Bad] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    decoded: int = 0
    copies: int = 0
    compared: int = 0

    @property
    def images(self) -> int:
        """How many images there are: counted, or estimated from the files that were read."""
        return round(len(self.headers) * self.files / max(self.read, 1))

    @property
    def short_sides(self) -> list[int]:
        """Shorter sides of the images, pixels, ascending."""
        return sorted(min(header.width, header.height) for header in self.headers)


def settings_for(path: Path, labels: Literal["folders", "none"] = "folders") -> Fetch:
    """Tell which source reads a path: a list, tars, or a tree of images.

    Raises:
        MocoError: nothing is there.
    """
    if not path.exists():
        raise MocoError(f"{printable(str(path))}: no such file or folder; name the folder that holds your images")
    source: Literal["folder", "list", "tars"] = "folder"
    if path.is_file():
        source = "list" if path.suffix.lower() in LISTS else "tars"
    else:
        names = list(islice(walk_tree(path), 1000))
        tars = [name for name in names if name.lower().endswith(".tar") or PACKED.search(name)]
        if tars and not any(is_image_name(name) for name in names):
            source = "tars"
    return DRAWN.model_copy(update={"source": source, "path": str(path), "labels": labels})


def look(path: Path, labels: Literal["folders", "none"] = "folders") -> Looked:
    """Look at images as `moco fetch` and `moco shard` would take them; change nothing.

    Where there are more than `SECONDS` allow, a sample is read, in an order that follows from the
    names alone.

    Args:
        path: a folder, a list, or a tar.
        labels: whether folders name classes.

    Raises:
        MocoError: nothing is there, or its layout is refused.
    """
    source = open_source(settings_for(path, labels))
    assert not isinstance(source, Arrays)
    files = sorted(source.walk(), key=_drawn)
    found = Looked(settings_for(path, labels), [*source.notes], len(files))
    if source.left_out:
        found.notes.append(f"left out what systems put there: {source.left_out}")
    root, taken = Path(source.root), []
    for file, size, said in _for_seconds(files, lambda one: _header(root, one)):
        found.read += 1
        if isinstance(said, Header):
            found.headers.append(said)
            found.labels[file.label] += 1
            found.parts[file.part] += 1
            found.bytes += size
            taken.append((file, size))
        elif is_image_name(file.path):
            found.bad.append(Bad(file.path, said))
        else:
            found.others[Path(file.path).suffix.lower() or "no suffix"] += 1
    for file, said in _for_seconds([file for file, _ in taken], lambda one: (one, _undecodable(root, one))):
        found.decoded += 1
        if said:
            found.bad.append(Bad(file.path, said))
    _count_copies(found, root, taken)
    found.bad.sort()
    return found


def _drawn(file: File) -> bytes:
    return hashlib.sha256(file.path.encode(errors="surrogateescape")).digest()


def _for_seconds(items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    """Work on items by threads, in order, as far as `SECONDS` go; on a few in any case."""
    end, chunk = time.monotonic() + SECONDS, 2 * cores()
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, len(items), chunk):
            yield from pool.map(work, items[first : first + chunk])
            if time.monotonic() > end:
                return


def _bytes(root: Path, file: File) -> bytes:
    with (root / (file.tar or file.path)).open("rb") as opened:
        if file.place is None:
            return opened.read()
        opened.seek(file.place[0])
        return opened.read(file.place[1])


def _header(root: Path, file: File) -> tuple[File, int, Header | str]:
    """Give a file with its size in bytes and its header, or why it is no image."""
    try:
        if file.place is not None:
            return file, file.place[1], header_of(io.BytesIO(_bytes(root, file)))
        with (root / file.path).open("rb") as opened:
            return file, os.fstat(opened.fileno()).st_size, header_of(opened)
    except UndecodableError as error:
        return file, 0, str(error)
    except OSError as error:
        return file, 0, os_error_in_one_line(error) or str(error)


def _undecodable(root: Path, file: File) -> str:
    try:
        decode(_bytes(root, file))
    except (UndecodableError, OSError) as error:
        return str(error)
    return ""


def _count_copies(found: Looked, root: Path, taken: list[tuple[File, int]]) -> None:
    """Count exact copies: only files of one size are read, as far as `SECONDS` go."""
    sizes = Counter(size for _, size in taken)
    alike = [file for file, size in taken if sizes[size] > 1]
    seen: set[bytes] = set()
    read = 0
    for digest in _for_seconds(alike, lambda one: hashlib.sha256(_bytes(root, one)).digest()):
        read += 1
        found.copies += digest in seen
        seen.add(digest)
    found.compared = len(taken) - len(alike) + read


def lines(found: Looked) -> Iterator[str]:
    """Say what was found, a line each."""
    settings = found.settings
    yield f"{printable(settings.path)}: read as source {settings.source}"
    yield from found.notes
    if not found.headers:
        yield f"no image among {found.files} files"
    else:
        yield from _images(found)
        yield from _classes(found)
        yield from _splits(found)
    yield from _left_out(found)


def _images(found: Looked) -> Iterator[str]:
    formats = Counter(header.format for header in found.headers)
    of_all = "" if found.read == found.files else f"about, by {found.read} of {found.files} files drawn: "
    kinds = ", ".join(f"{count} {kind}" for kind, count in formats.most_common())
    yield f"{of_all}{found.images} images ({readable(found.bytes * found.files / found.read)}): {kinds}"
    sides = found.short_sides
    tenth, half, most = sides[0], sides[0], sides[0]
    if len(sides) > 1:
        cuts = quantiles(sides, n=10, method="inclusive")
        tenth, half, most = (round(cuts[at]) for at in (0, 4, 8))
    longest = max(max(header.width, header.height) for header in found.headers)
    yield f"shorter side: half of them {half} pixels or more, a tenth below {tenth}, a tenth above {most};" + (
        f" longest side {longest}"
    )
    modes = Counter(header.mode for header in found.headers if header.mode != "RGB")
    if modes:
        yield "as stored, not plain RGB: " + ", ".join(f"{count} {mode}" for mode, count in modes.most_common())


def _classes(found: Looked) -> Iterator[str]:
    classes = found.labels.copy()
    unlabelled = classes.pop("", 0)
    if not classes:
        yield "no labels: linear classification is left out, kNN too; neighbors and the map remain"
        return
    ranked = classes.most_common()
    named = ", ".join(f"{one_line(name, 40)} {count}" for name, count in ranked[:NAMED])
    more = f", … {one_line(ranked[-1][0], 40)} {ranked[-1][1]}" if len(ranked) > NAMED else ""
    word = "class" if len(ranked) == 1 else "classes"
    yield f"{len(ranked)} {word}: {named}{more}" + (f"; {unlabelled} without a label" if unlabelled else "")


def _splits(found: Looked) -> Iterator[str]:
    own = {part: count for part, count in found.parts.items() if part != "all"}
    settings, drawn = found.settings, found.parts["all"]
    if own:
        yield "splits that the source has: " + ", ".join(f"{part} {count}" for part, count in sorted(own.items()))
    if drawn:
        test = 0.0 if "test" in own else settings.test_fraction
        val = 0.0 if "val" in own else settings.val_fraction
        yield (
            f"splits drawn from {'the other ' if own else ''}{drawn}: about {drawn * (1 - val - test):.0f} train,"
            f" {drawn * val:.0f} val, {drawn * test:.0f} test"
        )


def _left_out(found: Looked) -> Iterator[str]:
    if others := sum(found.others.values()):
        kinds = ", ".join(f"{count} {one_line(suffix, 20)}" for suffix, count in found.others.most_common(NAMED))
        yield f"no images, tried and left out: {others} files ({kinds}{', …' * (len(found.others) > NAMED)})"
    if found.bad:
        yield f"images that cannot be read: {len(found.bad)}"
        yield from (f"  {one_line(one.path)}: {one_line(one.why)}" for one in found.bad[:NAMED])
        if len(found.bad) > NAMED:
            yield f"  and {len(found.bad) - NAMED} more"
    if found.headers:
        copies = "1 exact copy" if found.copies == 1 else f"{found.copies or 'no'} exact copies"
        yield f"pixels of {found.decoded} images decoded; {copies} among {found.compared}" + ", left out" * (
            found.copies > 0
        )
