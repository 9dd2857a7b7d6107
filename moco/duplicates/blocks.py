"""The search for pairs of similar hashes in blocks, on other hosts: the same pairs, less memory."""

import hashlib
import shutil
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from moco import npy
from moco.cluster.pieces import Engine, spread
from moco.duplicates.search import Hashes, Pairs, in_order, pairs_between, pairs_within
from moco.files import whole_file

PIECES, FEWEST, MOST = 16, 65_536, 2**24
"""Blocks that the hashes are cut into, and hashes of a block: 1 GB of memory at most."""


@dataclass(frozen=True)
class Elsewhere:
    """Other hosts that search.

    Attributes:
        engine: which.
        scratch: folder on a disk that all of them share.
        stage: first word of the progress line.
    """

    engine: Engine
    scratch: Path
    stage: str

    def pairs_within(self, distance: int, hashes: Hashes, queries: Hashes | None = None) -> Pairs:
        """Find what `moco.duplicates.search.pairs_within` finds, block by block.

        Blocks that an earlier call has searched are not searched again.
        """
        if len(hashes) <= FEWEST:  # a second of work
            return pairs_within(distance, hashes, queries)
        asked = hashes if queries is None else queries
        block = min(MOST, max(FEWEST, -(-len(hashes) // PIECES)))
        about = hashlib.sha256(f"{distance} {block} ".encode() + hashes.tobytes() + asked.tobytes()).hexdigest()[:16]
        folder = (self.scratch / f"pairs-{about}").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in (("hashes.npy", hashes), ("queries.npy", asked)):
            with whole_file(folder / name) as part:
                np.save(part, values)
        starts = range(0, len(hashes), block)
        ranges = [(first, other) for first in starts for other in starts if other >= first]
        work = partial(_search, folder, distance, block)
        with closing(spread(self.engine, self.stage, folder, work, ranges, threaded=True)) as blocks:
            found = [np.load(folder / name) for name in blocks]
        shutil.rmtree(folder)
        i, j, bits = (np.concatenate([part[name] for part in found]) for name in ("i", "j", "distance"))
        return in_order(i, j, bits)


FOUND = np.dtype([("i", "<i8"), ("j", "<i8"), ("distance", "u1")])
"""A pair in the file of two blocks."""


def _search(folder: Path, distance: int, block: int, firsts: tuple[int, int]) -> str:
    """Search one block of queries among one block of hashes; the name of the file of pairs."""
    first, other = firsts
    path = folder / f"{first}-{other}.npy"
    if not path.exists():
        queries, hashes = npy.mapped(folder / "queries.npy"), npy.mapped(folder / "hashes.npy")
        assert queries is not None and hashes is not None
        ranges = np.array(queries[first : first + block]), np.array(hashes[other : other + block])
        pairs = pairs_between(distance, *ranges, first, other)
        found = np.empty(len(pairs.i), FOUND)
        found["i"], found["j"], found["distance"] = pairs
        with whole_file(path, shared=True) as part:
            np.save(part, found)
    return path.name
