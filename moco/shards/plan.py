"""Which lines of the manifest make up which shard."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moco.config import SPLITS, Shard, Split
from moco.sources.manifest import Manifest, Placed, lines


@dataclass
class Planned:
    """One shard, to be written unless it is there.

    A shard is cut from one listing, so that later images change none; one that is taken out leaves
    its shard, which then has another name.
    """

    split: Split
    number: int
    lines: int = 0
    """Of the manifest, those of removed images included."""
    rows: list[Placed] = field(default_factory=list)
    """The lines whose image is in the set."""
    change: int = 0
    """The last change that took an image out of it."""
    made_of: str = ""
    """Hash of all its lines, those of removed images included, and of how images are stored."""
    merged: list["Planned"] = field(default_factory=list)
    """Smaller shards that it is made of."""
    before: str | None = None
    """A tar that holds its images, and removed ones, from which it can be copied."""
    bad: list[dict[str, str]] = field(default_factory=list)
    """path and reason of the files that were left out of that tar."""

    @property
    def name(self) -> str:
        """The tar's file name."""
        last = f"-to-{self.merged[-1].number:06d}" if self.merged else ""
        return f"{self.split}-{self.number:06d}{last}{f'-{self.change}' if self.change else ''}.tar"


def pieces_of(planned: Planned) -> list[Planned]:
    """Give what a shard is written from, in order: itself, or smaller ones."""
    return [planned] if planned.before or not planned.merged else planned.merged


def plan_shards(
    raw: Path, manifest: Manifest, removed: Mapping[tuple[int, int], int], settings: Shard, rules: str = ""
) -> Iterator[Planned]:
    """Cut the listings into shards: a function of the manifest alone, so bad images move no others.

    Args:
        raw: folder of the manifest.
        manifest: what it says.
        removed: lines of its listings whose image was taken out, and the change that did it.
        settings: the limits of a shard.
        rules: names how images are stored.
    """
    pieces = _cut(raw, manifest, removed, settings, rules)
    return pieces if settings.merge_below is None else _merged(pieces, settings.merge_below, settings.samples_per_shard)


def _cut(
    raw: Path, manifest: Manifest, removed: Mapping[tuple[int, int], int], settings: Shard, rules: str
) -> Iterator[Planned]:
    label_of = {name: label for label, name in enumerate(manifest.classes)}
    numbers = dict.fromkeys(SPLITS, 0)
    planned, digest, size, of = Planned(SPLITS[0], 0), hashlib.sha256(), 0, 0
    for placed in lines(raw, manifest, removed):
        listing, row = placed.listing, placed.row
        full = planned.lines == settings.samples_per_shard or size + row.bytes > settings.megabytes_per_shard * 10**6
        other = (row.split, listing) != (planned.split, of)
        if planned.lines and (full or other):
            planned.made_of = digest.hexdigest()
            yield planned
        if not planned.lines or full or other:
            planned, digest, size, of = (
                Planned(row.split, numbers[row.split]),
                hashlib.sha256(rules.encode()),
                0,
                listing,
            )
            numbers[row.split] += 1
        about = f"{row.sha256}:{row.copy}:{label_of.get(row.label, -1)}:{row.label}:{row.path}\0"
        digest.update(about.encode(errors="surrogateescape"))
        if placed.removed:
            planned.change = max(planned.change, placed.removed)
        else:
            planned.rows.append(placed)
        size, planned.lines = size + row.bytes, planned.lines + 1
    if planned.lines:
        planned.made_of = digest.hexdigest()
        yield planned


def _merged(pieces: Iterator[Planned], below: int, full: int) -> Iterator[Planned]:
    """Make one of small shards that follow each other, once they hold `full` images together.

    What is merged once stays so as images arrive. In memory are the lines of a shard a split.
    """
    small: dict[Split, list[Planned]] = {split: [] for split in SPLITS}
    for piece in pieces:
        waiting = small[piece.split]
        if piece.lines >= below:
            yield from _in_order(waiting)
            yield piece
            continue
        waiting.append(piece)
        if sum(each.lines for each in waiting) >= full:
            yield _one(waiting)
            waiting.clear()
    for waiting in small.values():
        yield from waiting


def _in_order(waiting: list[Planned]) -> Iterator[Planned]:
    yield from waiting
    waiting.clear()


def _one(pieces: list[Planned]) -> Planned:
    made_of = hashlib.sha256("".join(piece.made_of for piece in pieces).encode()).hexdigest()
    one = Planned(pieces[0].split, pieces[0].number, sum(piece.lines for piece in pieces), made_of=made_of)
    one.merged, one.change = list(pieces), max(piece.change for piece in pieces)
    one.rows = [row for piece in pieces for row in piece.rows]
    return one
