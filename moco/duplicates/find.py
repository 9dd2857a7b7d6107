"""Exact and near duplicates among the images of a shard set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.config import SPLITS, Split
from moco.duplicates.blocks import Elsewhere
from moco.duplicates.groups import groups_of, members_of
from moco.duplicates.likeness import Judge, likeness, unit
from moco.duplicates.search import Hashes, Pairs, pairs_within
from moco.files import write_table
from moco.survey.measure import LOOK
from moco.survey.run import Survey

Search = Callable[[int, Hashes, Hashes | None], Pairs]
EMPTY = 0.01
"""Contrast below which an image has no hash that means anything: a plain area."""
MOST_OF_A_HASH = 100
"""Images of one hash that are compared with each other; further ones meet the first alone."""
BELOW = 0.03
"""How far below the least likeness a pair may lie to be shown as refused."""
COLUMNS = ("key", "split", "twin", "twin_split", "kind", "distance", "likeness")


@dataclass(frozen=True)
class Pair:
    """Two images.

    Attributes:
        first: number of one in the survey.
        second: number of the other.
        kind: exact: the same bytes; near: alike; mirrored: the mirror image of one is like the
            other.
        distance: bits in which their hashes differ.
        likeness: cosine, 1 for exact ones.
    """

    first: int
    second: int
    kind: str
    distance: int
    likeness: float


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        pairs: those that count, by rising numbers.
        refused: pairs of similar hashes that fell short of the least likeness by little.
        candidates: pairs of similar hashes.
        judge: what decided.
        least: the least likeness.
        groups: group of each image that has a twin, by number.
        crossing: images of val and test with a twin in a split before theirs.
    """

    pairs: list[Pair]
    refused: list[Pair]
    candidates: int
    judge: str
    least: float
    groups: dict[int, int]
    crossing: list[int]

    @property
    def redundant(self) -> int:
        """Images beyond the first of each group."""
        return len(self.groups) - len(set(self.groups.values()))

    def count(self, kind: str) -> int:
        """Count the pairs of a kind."""
        return sum(pair.kind == kind for pair in self.pairs)


def find(
    found: Survey, judge: Judge, distance: int, least: float, mirrored: bool, elsewhere: Elsewhere | None = None
) -> Duplicates:
    """Find the images that are there twice or nearly so, over all splits.

    Args:
        found: the images.
        judge: decides which of the pairs with similar hashes are alike.
        distance: bits in which the hashes of a pair may differ, 0 to 7.
        least: likeness from which on a pair counts.
        mirrored: whether mirror images count too.
        elsewhere: other hosts that search for similar hashes; None: this one does.
    """
    search = elsewhere.pairs_within if elsewhere else pairs_within
    exact, once = _exact(found.records["content"])
    usable = once[found.records["contrast"][once] >= EMPTY]
    pairs, compared, candidates = list(exact), list[Pair](), 0
    known: set[tuple[int, int]] = set()
    for turned in (False, True) if mirrored else (False,):
        i, j, bits = _candidates(found, usable, distance, turned, search)
        candidates += len(i)
        rough = _roughly_alike(judge, found, i, j, turned)
        i, j, bits = i[rough], j[rough], bits[rough]
        cosines = _in_pieces(judge, found, i, j, turned)
        compared += [
            Pair(first, second, "mirrored" if turned else "near", bit, round(cosine, 4))
            for first, second, bit, cosine in zip(i.tolist(), j.tolist(), bits.tolist(), cosines.tolist(), strict=True)
            if cosine >= least - BELOW and (first, second) not in known
        ]
        known = {(pair.first, pair.second) for pair in compared if pair.likeness >= least}
    pairs += [pair for pair in compared if pair.likeness >= least]
    refused = sorted((pair for pair in compared if pair.likeness < least), key=lambda pair: -pair.likeness)
    pairs.sort(key=lambda pair: (pair.first, pair.second))
    groups = _groups(pairs)
    return Duplicates(pairs, refused[:100], candidates, judge.name, least, groups, _crossing(found, groups))


def write_pairs(path: Path, found: Survey, pairs: Iterable[Pair]) -> None:
    """Write pairs as CSV: `COLUMNS`."""
    rows = [
        (
            *(found.key(pair.first), found.place(pair.first)[0], found.key(pair.second), found.place(pair.second)[0]),
            *(pair.kind, pair.distance, f"{pair.likeness:.4f}"),
        )
        for pair in pairs
    ]
    write_table(path, COLUMNS, rows)


def write_groups(path: Path, found: Survey, groups: dict[int, int]) -> None:
    """Write the group of each image that has a twin as CSV: key and group."""
    write_table(path, ("key", "group"), [(found.key(image), found.key(group)) for image, group in groups.items()])


def _exact(content: NDArray[np.uint64]) -> tuple[list[Pair], NDArray[np.int64]]:
    """Pair every image with the first of the same bytes; also give the first of each, ascending."""
    _, first, inverse = np.unique(content, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(content)))
    pairs = [Pair(one, other, "exact", 0, 1.0) for one, other in zip(first[inverse][again].tolist(), again.tolist(), strict=True)]  # fmt: skip
    return pairs, np.sort(first)


def _candidates(
    found: Survey, usable: NDArray[np.int64], distance: int, turned: bool, search: Search
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Find pairs of similar hashes: their numbers i < j, and the bits that differ."""
    hashes = found.records["hash"][usable]
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(first)))
    place = np.empty(len(hashes), np.int64)
    place[order] = np.arange(len(hashes)) - starts[inverse[order]]
    some, others = usable[place < MOST_OF_A_HASH], np.flatnonzero(place >= MOST_OF_A_HASH)
    mirrors = found.records["mirrored"][some] if turned else None
    near = search(distance, found.records["hash"][some], mirrors)
    if turned:
        return some[near.i], some[near.j], near.distance
    i = np.concatenate([some[near.i], usable[first[inverse[others]]]])
    j = np.concatenate([some[near.j], usable[others]])
    return i, j, np.concatenate([near.distance, np.zeros(len(others), np.uint8)])


def _roughly_alike(
    judge: Judge, found: Survey, i: NDArray[np.int64], j: NDArray[np.int64], turned: bool
) -> NDArray[np.bool_]:
    """Tell which pairs' tiny copies correlate, so that few images are decoded again."""
    looks = found.records["look"]
    alike = np.zeros(len(i), bool)
    for part in np.array_split(np.arange(len(i)), -(-len(i) // 65_536) or 1):
        first = looks[i[part], :, ::-1] if turned else looks[i[part]]
        one, other = _flat(first), _flat(looks[j[part]])
        alike[part] = np.einsum("pd,pd->p", one, other) >= judge.rough
    return alike


def _flat(copies: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bring copies to length 1, without their mean: float32 P x 192."""
    flat = copies.reshape(len(copies), 3 * LOOK**2).astype(np.float32)
    return unit(flat - flat.mean(axis=1, keepdims=True))


def _in_pieces(
    judge: Judge, found: Survey, i: NDArray[np.int64], j: NDArray[np.int64], turned: bool
) -> NDArray[np.float32]:
    """Compare pairs some thousand at a time: vectors of all images would fill the memory."""
    parts = np.array_split(np.arange(len(i)), -(-len(i) // judge.pairs_at_once) or 1)
    return np.concatenate([likeness(judge, found, i[part], j[part], turned) for part in parts])


def _groups(pairs: list[Pair]) -> dict[int, int]:
    """Group images by number; names of one width sort as their numbers do."""
    named = groups_of((f"{pair.first:012d}", f"{pair.second:012d}") for pair in pairs)
    return {int(image): int(group) for image, group in named.items()}


def _crossing(found: Survey, groups: dict[int, int]) -> list[int]:
    """List images of a later split whose group begins in an earlier one."""
    splits = found.split_of
    members = members_of({f"{image:012d}": f"{group:012d}" for image, group in groups.items()})
    return [image for group in members.values() for image in map(int, group) if splits[image] > splits[int(group[0])]]


def crossings(found: Survey, duplicates: Duplicates) -> dict[tuple[Split, Split], int]:
    """Count the images of a split that have a twin in an earlier split."""
    counts: dict[tuple[Split, Split], int] = {}
    for image in duplicates.crossing:
        splits = found.split_of
        pair = SPLITS[splits[duplicates.groups[image]]], SPLITS[splits[image]]
        counts[pair] = counts.get(pair, 0) + 1
    return counts
