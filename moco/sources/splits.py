"""The split of an image: a function of its content, or of its group, alone."""

import hashlib
import sqlite3
from itertools import pairwise
from typing import Literal

from moco.config import SPLITS, Fetch, Split
from moco.errors import MocoError

Part = Literal["all", "train", "val", "test"]
"""all: the source has no test set; train, val, test: the official part of an image."""


def choose_split(digest: str, part: Part, settings: Fetch) -> Split:
    """Choose the split of an image: a pure function of the seed and its content.

    Exact duplicates fall on one side, and images that arrive later move no others.

    Args:
        digest: the SHA-256 of its content, hexadecimal.
        part: an official validation or test image stays one, and no official training image becomes
            a test image.
        settings: the seed and the shares.
    """
    if part in ("val", "test"):
        return part
    place = int.from_bytes(keyed("split", digest, settings)) / 2**64
    test = settings.test_fraction if part == "all" else 0.0
    if place < test:
        return "test"
    return "val" if place < test + settings.val_fraction else "train"


def keyed(use: str, digest: str, settings: Fetch) -> bytes:
    """Draw eight bytes by the seed of the split, for a use and the hash of a content."""
    return hashlib.sha256(f"{use}:{settings.split_seed}:{digest}".encode()).digest()[:8]


def cluster_of(group: str) -> str:
    """Give what the split of a group's images follows from, as 64 hexadecimal digits."""
    return hashlib.sha256(f"group:{group}".encode(errors="surrogateescape")).hexdigest()


def keep_together(database: sqlite3.Connection, settings: Fetch) -> None:
    """Put groups that share an exact duplicate into one split; it would be in two otherwise.

    A group that has images in the set, or shares one with it, goes to their split.

    Args:
        database: its table `files` has the columns place, path, part, sha256, ident, and cluster:
            what the split follows from; its table `known`, of the images in the set, place, ident
            and cluster.
        settings: the seed and the shares.

    Raises:
        MocoError: images of one group are in two of the source's own splits.
    """
    run = database.execute
    if not run("SELECT EXISTS (SELECT 1 FROM files WHERE cluster <> ident)").fetchone()[0]:
        return  # no groups
    crossing = run(
        "SELECT MIN(path), MAX(path) FROM files GROUP BY cluster HAVING COUNT(DISTINCT part) > 1 AND"
        " COUNT(DISTINCT sha256) > 1 LIMIT 1"
    ).fetchone()
    if crossing:
        raise MocoError(
            f"fetch.path = {settings.path!r}: {crossing[0]!r} and {crossing[1]!r} are of one group and in two splits;"
            " give each group one split, or leave the column split out"
        )
    joined: dict[str, str] = {}

    def first(cluster: str) -> str:
        while (above := joined.get(cluster)) is not None:
            joined[cluster] = joined.get(above, above)  # halves the way, for the next time
            cluster = above
        return cluster

    shared = run(
        "SELECT DISTINCT sha256, cluster FROM files WHERE part IN ('all', 'train') AND sha256 IN (SELECT sha256 FROM"
        " files WHERE sha256 <> '' GROUP BY sha256 HAVING COUNT(DISTINCT cluster) > 1) ORDER BY sha256, cluster"
    ).fetchall()
    for (before, other), (content, cluster) in pairwise(shared):
        if content == before and (one := first(cluster)) != (two := first(other)):
            joined[max(one, two)] = min(one, two)
    in_the_set = run(
        "SELECT files.cluster, known.place FROM files JOIN known USING (cluster) WHERE files.cluster <> files.ident"
        " UNION SELECT files.cluster, known.place FROM files JOIN known USING (ident) WHERE files.cluster <> files.ident"
        " ORDER BY 1, 2 DESC"
    )
    fixed = {first(cluster): place for cluster, place in in_the_set}
    moving = {*joined, *fixed}
    if moving:  # without an index each of the updates would read all files
        run("CREATE INDEX clusters ON files (cluster)")
    parts: tuple[Part, ...] = ("all", "train")
    for cluster in sorted(moving):
        for part in parts:
            place = SPLITS.index(choose_split(first(cluster), part, settings))
            there = fixed.get(first(cluster), place)
            if part == "all" or SPLITS[there] != "test":  # an official training image is none of the test set
                place = there
            run("UPDATE files SET place = ? WHERE cluster = ? AND part = ?", (place, cluster, part))
