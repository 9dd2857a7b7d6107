"""The shards that an earlier run wrote, and which of them a plan can keep."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.config import SPLITS, Split
from moco.errors import MocoError
from moco.images.index import PartOfIndex, ShardOfIndex, open_split, read_index
from moco.shards.plan import Planned


@dataclass
class Earlier:
    """What is in a folder of shards.

    Attributes:
        folder: it.
        shards: by what they were made of: split, position in its index, and what index.json says.
        entries: for each split, the lines of its index.
        starts: for each split, where the lines of each tar begin, and where the last ones end.
        parts: for each split, the files of its index.
        quarantine: for each tar, path and reason of the files that were left out.
        stays: whether a tar of it is kept, so that the folder is added to and not replaced.
    """

    folder: Path
    shards: dict[str, tuple[Split, int, ShardOfIndex]] = field(default_factory=dict)
    entries: dict[Split, NDArray[Any]] = field(default_factory=dict)
    starts: dict[Split, NDArray[np.int64]] = field(default_factory=dict)
    parts: dict[Split, list[PartOfIndex]] = field(default_factory=dict)
    quarantine: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    stays: bool = False

    @classmethod
    def read(cls, folder: Path) -> "Earlier":
        """Read what can be kept: nothing if the index is missing, damaged or of another format."""
        found = cls(folder)
        try:
            index = read_index(folder)
            for split in SPLITS:
                found.entries[split] = open_split(folder, split).entries
                found.parts[split] = index.splits[split].parts
                tars = np.ascontiguousarray(found.entries[split]["shard"])  # a column is far apart in a file
                found.starts[split] = np.searchsorted(tars, np.arange(len(index.splits[split].shards) + 1))
                for position, shard in enumerate(index.splits[split].shards):
                    tar = folder / shard.file
                    if tar.is_file() and tar.stat().st_size == shard.bytes:
                        found.shards[shard.made_of] = split, position, shard
            for line in (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines():
                bad = json.loads(line)
                found.quarantine.setdefault(bad["shard"], []).append({key: bad[key] for key in ("path", "reason")})
        except (MocoError, OSError, ValueError, KeyError):
            return cls(folder)
        return found

    def keeps(self, planned: Planned) -> bool:
        """Tell whether a shard is there as planned; if other tars have its images, note them."""
        found = self.shards.get(planned.made_of)
        if found and found[2].file == planned.name and self._holds(planned) == set():
            self.stays = True
            return True
        for part in [planned] if found else planned.merged:
            if part.made_of in self.shards and self._holds(part) is not None:
                part.before = self.shards[part.made_of][2].file
                part.bad = self.quarantine.get(part.before, [])
        return False

    def _holds(self, planned: Planned) -> set[int] | None:
        """Give the keys that the tar of a shard holds besides its own; None: it lacks some.

        An earlier manifest that was checked out again may have taken out other images.
        """
        file = self.shards[planned.made_of][2].file
        bad = {each["path"] for each in self.quarantine.get(file, [])}
        there = set(self.lines_of(planned.made_of)["key"].tolist())
        rows = [placed.row for placed in planned.rows]
        wanted = {row.key for row in rows if row.sha256 and row.path not in bad}
        return there - wanted if wanted <= there else None

    def lines_of(self, made_of: str) -> NDArray[Any]:
        """Give the lines of a shard in the index of its split."""
        split, position, _ = self.shards[made_of]
        first, last = self.starts[split][position : position + 2]
        return self.entries[split][first:last]
