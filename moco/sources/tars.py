"""WebDataset tars, as img2dataset and others write them: one image of each sample."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from moco.config import Fetch, Split
from moco.errors import MocoError
from moco.sources.folder import SPLIT_OF
from moco.sources.list import given
from moco.sources.members import Sample, samples_of
from moco.sources.source import File, Files, part_of
from moco.sources.tree import walk_tree

PACKED = re.compile(r"\.(tar\.(gz|bz2|xz|zst)|tgz)$", re.IGNORECASE)
MOST_LABEL = 65_536
"""Bytes of a field that is read for a label."""


def find(settings: Fetch) -> Files:
    """Find the images in the tars of a folder, or in one tar.

    A label is the field `cls`, or `class` or `label` of the field `json`. Tars whose names begin
    with train, val or test are splits where all do and one is for training.
    """
    path = Path(settings.path)
    root, names = (path.parent, [path.name]) if path.is_file() else (path, [])
    packed: list[str] = []
    if path.is_dir():
        files = list(walk_tree(path))
        names = [name for name in files if name.lower().endswith(".tar")]
        packed = [name for name in files if PACKED.search(name)]
        if packed and not names:
            raise MocoError(f"{path / packed[0]}: is compressed; unpack it, or write the tar without compression")
    if not names:
        raise MocoError(f"fetch.path = {str(path)!r}: no tars there; name a tar, or the folder that holds them")
    splits = _splits(names)
    own = frozenset(splits.values()) - {"train"}
    known = [f"tars taken for splits: {', '.join(sorted(set(splits.values())))}"] if splits else []
    if packed:
        known.append(f"compressed tars, which are not read: {len(packed)} ({packed[0]}{', …' * (len(packed) > 1)})")
    notes = list(known)

    def walk() -> Iterator[File]:
        without = further = 0
        for name in names:
            part = part_of(splits[name], own) if splits else "all"
            for sample in samples_of(root / name):
                without, further = without + (not sample.images), further + max(sample.images - 1, 0)
                if sample.image is not None:
                    place = sample.fields[sample.image]
                    label = _label(root / name, sample) if settings.labels == "folders" else ""
                    yield File(f"{name}/{sample.key}.{sample.image}", label, part, "", name, place)
        notes[:] = known
        if without:
            notes.append(f"samples without an image, which are left out: {without}")
        if further:
            notes.append(f"images behind the first of a sample (what is before the first dot), left out: {further}")

    return Files(str(root), walk, own=own, notes=notes)


def _splits(names: list[str]) -> dict[str, Split]:
    found: dict[str, Split] = {}
    for name in names:
        start = re.match(r"[a-z]*", Path(name).name.lower())
        split = SPLIT_OF.get(start[0]) if start else None
        if split is None:
            return {}
        found[name] = split  # type: ignore[assignment]
    return found if {"train"} < set(found.values()) else {}


def _label(tar: Path, sample: Sample) -> str:
    for name in ("cls", "json"):
        offset, size = sample.fields.get(name, (0, 0))
        if not 0 < size <= MOST_LABEL:
            continue
        with tar.open("rb") as file:
            file.seek(offset)
            text = file.read(size).decode("utf-8", "replace")
        if name == "json":
            try:
                about = json.loads(text)
            except ValueError:
                continue
            values = [about.get(key) for key in ("class", "label")] if isinstance(about, dict) else []
            text = next((str(value) for value in values if isinstance(value, int | str) and value not in ("", -1)), "")
        label = given(text)
        if label not in ("", "-1"):
            return label
    return ""
