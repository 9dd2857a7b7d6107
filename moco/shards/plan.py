"""Which rows of the manifest make up which shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moco.config import SPLITS, Shard, Split
from moco.sources.manifest import Row, read_manifest


@dataclass(frozen=True)
class Planned:
    """One shard, to be written."""

    split: Split
    number: int
    first: int
    """Position of the first row in the split's part of the manifest."""
    rows: list[Row]

    @property
    def name(self) -> str:
        """The tar's file name."""
        return f"{self.split}-{self.number:06d}.tar"


def plan_shards(raw: Path, settings: Shard) -> Iterator[Planned]:
    """Cut the manifest into shards: a function of the manifest alone, so bad images move no others.

    Args:
        raw: folder of the manifest.
        settings: the limits of a shard.
    """
    split, number, first, rows, size = SPLITS[0], 0, 0, list[Row](), 0
    for row in read_manifest(raw)[1]:
        full = len(rows) == settings.samples_per_shard or size + row.bytes > settings.megabytes_per_shard * 10**6
        if rows and (full or row.split != split):
            yield Planned(split, number, first, rows)
            number, first, rows, size = number + 1, first + len(rows), [], 0
        if row.split != split:
            split, number, first = row.split, 0, 0
        rows.append(row)
        size += row.bytes
    if rows:
        yield Planned(split, number, first, rows)
