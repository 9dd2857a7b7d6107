"""Measure reading of encoded samples, and a large index: `python -m benchmarks.reading`."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row, found, interleaved, machine, options, save
from benchmarks.photographs import KEPT, photograph_shards, sharded
from benchmarks.reading_peers import NOTES, SHUFFLED, Read, by_index, shuffled
from moco.config import Fetch
from moco.images.index import ShardSet, open_split
from moco.images.plan import EpochPlan

BATCH = 256
FEW, MANY = 10_000, 1_000_000
PEAK = """
import sys
from benchmarks.reading import batches, open_split
images = open_split(sys.argv[1], "train")
for batch in batches(images, 80):
    for sample in batch:
        images.read(int(sample))
lines = open("/proc/self/status").read().splitlines()
print(*(line.split()[1] for line in lines if line.startswith(("VmHWM", "RssAnon"))))
"""


def batches(images: ShardSet, count: int) -> Iterator[Any]:
    """Sample numbers of `count` batches in a global random order."""
    plan = EpochPlan(len(images), min(BATCH, len(images)), 0)
    return (plan.batch(step) for step in range(count))


def read_by_index(images: ShardSet, count: int) -> int:
    """Read samples in the order of the plan."""
    for batch in batches(images, -(-count // BATCH)):
        for sample in batch:
            images.read(int(sample))
    return -(-count // BATCH) * min(BATCH, len(images))


def read_files(paths: list[str], order: Any) -> int:
    """Read files in a random order."""
    for i in order:
        with open(paths[i], "rb", buffering=0) as file:  # noqa: PTH123, a Path costs as much as the reading
            file.read()
    return len(order)


def read_each(read: Read, order: list[int]) -> int:
    """Read a peer's samples in a random order."""
    for i in order:
        read(i)
    return len(order)


def read_in_order(images: ShardSet, count: int) -> int:
    """Read the same bytes by offset, one after the other, by the system's call alone."""
    entries = images.entries[:count].tolist()
    files: dict[int, int] = {}
    for offset, size, shard, *_ in entries:
        if shard not in files:
            files[shard] = os.open(images.folder / images.shards[shard], os.O_RDONLY)
        os.pread(files[shard], size, offset)
    for file in files.values():
        os.close(file)
    return len(entries)


def raw_webdataset(images: ShardSet) -> Iterator[dict[str, Any]]:
    """Read the raw samples of the tars without end, in the tars' order."""
    import webdataset as wds

    tars = [str(images.folder / name) for name in images.shards]
    return iter(wds.WebDataset(tars, shardshuffle=False).repeat())


def take(endless: Iterator[Any], count: int) -> int:
    """Take `count` samples."""
    return sum(1 for _ in islice(endless, count))


def same_bytes(images: ShardSet, paths: list[str], peers: dict[str, Read]) -> str:
    """Check that an epoch of every side gives the same samples.

    Raises:
        AssertionError: one does not.
    """
    count = len(images)
    mine = sorted(hashlib.sha256(images.read(i)).digest() for i in range(count))
    plain = sorted(hashlib.sha256(Path(path).read_bytes()).digest() for path in paths)
    assert mine == plain, "the plain files are other samples than the index's"
    for name, read in peers.items():
        theirs = sorted(hashlib.sha256(read(i)).digest() for i in range(count))
        assert mine == theirs, f"{name} reads other samples"
    if "litdata" in peers:
        theirs = sorted(hashlib.sha256(data).digest() for data in islice(shuffled(images, KEPT), count))
        assert mine == theirs, f"{SHUFFLED} reads other samples"
    if found("webdataset"):
        samples = islice(raw_webdataset(images), count)
        encoded = (sample.get("jpg") or sample["png"] for sample in samples)
        theirs = sorted(hashlib.sha256(data).digest() for data in encoded)
        assert mine == theirs, "webdataset reads other samples"
    return f"the SHA-256 of each of {count} samples is the same on every side"


def plain_files(images: ShardSet, folder: Path) -> list[str]:
    """Every sample of a set as a file of its own."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for i in range(len(images)):
            (part / f"{i:06d}").write_bytes(images.read(i))
        part.rename(folder)
    return sorted(str(path) for path in folder.iterdir())


def speeds(name: str, images: ShardSet, paths: list[str], peers: dict[str, Read], count: int, rounds: int) -> list[Row]:
    """Measure the samples a second of all sides."""
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(paths)), count)).tolist()
    sides = {
        "ours": partial(read_by_index, images, count),
        "plain files in a random order": partial(read_files, paths, order),
        "pread": partial(read_in_order, images, count),
    }
    sides |= {peer: partial(read_each, read, order) for peer, read in peers.items()}
    if "litdata" in peers:
        sides[SHUFFLED] = partial(take, shuffled(images, KEPT), count)
    if found("webdataset"):
        sides["wds.WebDataset, in the tars' order"] = partial(take, raw_webdataset(images), max(256, count // 8))
    costs = interleaved(sides, rounds)
    own = costs["ours"]
    return [
        Row(
            f"{name}, samples a second",
            "by index, in a global random order",
            "samples/s",
            1 / own.wall,
            other,
            1 / cost.wall,
            1 / own.cpu,
            1 / cost.cpu,
            10.0 if "wds" in other else None,
            limit=1 / costs["pread"].wall,
            limit_name="pread alone, in order",
            note="reads the sample's json too" if "wds" in other else NOTES.get(other, ""),
        )
        for other, cost in costs.items()
        if other not in ("ours", "pread")
    ]


def virtual(images: ShardSet, count: int) -> Path:
    """Make a shard set whose index repeats the same few samples `count` times."""
    folder = KEPT / f"index-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "train.index.npy", np.resize(images.entries, count))
    shutil.copy(images.folder / "index.json", folder)
    for name in images.shards:
        (folder / name).symlink_to((images.folder / name).resolve())
    return folder


def peaks(folder: Path) -> tuple[float, float]:
    """Peak resident and unshared kilobytes of a process that reads 20,480 random samples."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder)], check=True, capture_output=True, text=True)
    resident, unshared = map(float, done.stdout.split())
    return resident, unshared


def opened(folder: Path) -> int:
    """Open an index and read one sample in the middle of it."""
    images = open_split(folder, "train")
    images.read(len(images) // 2)
    return 1


def main() -> None:
    """Speeds for photographs and for small images; then the large index."""
    quick = options(__doc__).quick
    begun = machine()
    rounds = 5 if quick else 15
    photographs, _, _ = photograph_shards(256)
    fetch = Fetch(source="fashion-mnist", path="none", labels="folders", val_fraction=0, test_fraction=0, split_seed=0)
    small = open_split(sharded(fetch, KEPT / "fashion-mnist"), "test")
    proofs, rows = [], []
    for name, images, count in (
        ("Photographs of 81 kB", photographs, 2048),
        ("Fashion-MNIST, PNG of half a kB", small, 8192),
    ):
        paths = plain_files(images, KEPT / f"plain-{len(images)}")
        peers, missing = by_index(images, KEPT)
        if not found("webdataset"):
            missing["wds.WebDataset"] = "not installed"
        proofs.append(f"{name}: {same_bytes(images, paths, peers)}")
        rows += speeds(name, images, paths, peers, count, rounds)
        rows += [Row(name, "by index", "samples/s", peer_name=peer, not_run=why) for peer, why in missing.items()]
    few, many = virtual(photographs, FEW), virtual(photographs, MANY)
    opening = interleaved({"many": partial(opened, many)}, rounds)["many"].wall
    table = "A million samples"
    rows.append(Row(table, "open the index and read a sample in its middle", "s", opening, at_most=1.0))
    if sys.platform == "linux":
        for what, at, goal, note in (
            (
                "peak resident memory",
                0,
                None,
                "with the pages of the mapped index that were read, which belong to the page cache",
            ),
            ("memory of its own, unshared", 1, 0.9, ""),
        ):
            many_mb, few_mb = (peaks(folder)[at] / 1e3 for folder in (many, few))
            rows.append(
                Row(
                    table,
                    f"{what}, reading 20,480 at random",
                    "MB",
                    many_mb,
                    "ten thousand samples",
                    few_mb,
                    at_least=goal,
                    note=note,
                )
            )
    save("reading", rows, proofs, begun, quick)


if __name__ == "__main__":
    main()
