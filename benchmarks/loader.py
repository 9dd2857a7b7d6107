"""Two-view loaders side by side: `python -m benchmarks.loader [--quick]`."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import loader_peers
from benchmarks.loader_proof import same_distribution, same_views
from benchmarks.measure import Cost, Row, Side, cpu_seconds, found, interleaved, machine, options, save
from benchmarks.photographs import photograph_shards
from benchmarks.scaling_model import preset
from moco.encoders.normalize import normalize
from moco.images import fused_views
from moco.images.batches import ViewBatches
from moco.images.decode import decode
from moco.images.index import ShardSet
from moco.images.loader import steps
from moco.images.plan import EpochPlan

SIZE, BATCH = 224, 32
IMAGENET = 1_281_167
DISCARDED = 4
"""Batches before the counted ones, by which time worker processes run and nothing is ahead of
them."""
CPU = torch.device("cpu")
Batches = Callable[[int], Iterator[Any]]
"""Batches without end from a number of workers."""
PLAIN, COMPILED = "ours", "ours, compiled part"
GOALS = {
    PLAIN: {"official, as written": (4.0, 3.5), "NVIDIA DALI, CPU": (3.5, None)},
    COMPILED: {
        "official, as written": (7.5, 4.5),
        "NVIDIA DALI, CPU": (3.5, None),
        "decoding alone": (0.65, None),
        "decoding alone, simplejpeg": (0.65, None),
    },
}
"""Ratios to be reached: on one core, with two workers."""


@dataclass
class PlainFiles:
    """A folder of images used like a shard set."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> bytes:
        """Read the encoded bytes of image `i`."""
        return self.paths[i].read_bytes()

    def key(self, i: int) -> str:
        """Give the name of image `i`."""
        return self.paths[i].stem


def ours(images: Any, workers: int, compiled: bool = False) -> Iterator[Tensor]:
    """Load the batches of a run on these images, uint8 2 x N x 3 x S x S."""
    plan = EpochPlan(len(images), BATCH, 0)
    batches = ViewBatches(images, plan, preset("v2").views, SIZE, compiled=compiled)
    return steps(batches, 0, 10**9, workers, CPU)


def ours_as_float(images: Any, workers: int) -> Iterator[Tensor]:
    """Load the same batches as float32, normalized here and not by the training step."""
    return (normalize(batch.flatten(0, 1)) for batch in ours(images, workers))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def in_process(batches: Batches, count: int) -> Side:
    """Make a side that takes `count` batches a round, in this process."""
    endless = batches(0)

    def take() -> int:
        for batch in itertools.islice(endless, count):
            del batch
        return count * BATCH

    return take


def with_workers(batches: Batches, count: int) -> Side:
    """Make a side that starts two workers a round, and counts once they are under way."""

    def take() -> tuple[int, float, float]:
        endless = batches(2)
        for _ in range(DISCARDED):
            next(endless)
        wall, cpu = time.perf_counter(), cpu_seconds()
        for _ in range(count):
            next(endless)
        return count * BATCH, time.perf_counter() - wall, cpu_seconds() - cpu

    return take


def rows_beside(table: str, costs: dict[str, Cost], limit: float, at: int) -> list[Row]:
    """Each of our paths beside every other side."""
    return [
        Row(
            table,
            mine,
            "ms",
            1e3 * costs[mine].wall,
            name,
            1e3 * cost.wall,
            1e3 * costs[mine].cpu,
            1e3 * cost.cpu,
            at_least=GOALS[mine].get(name, (None, None))[at],
            limit=1e3 * limit,
            limit_name="decoding alone",
            note=loader_peers.NOTES.get(name, ""),
        )
        for mine in GOALS
        if mine in costs
        for name, cost in costs.items()
        if not name.startswith("ours")
    ]


def decoding(images: ShardSet) -> dict[str, Side]:
    """Make a side for each way to decode whole images and nothing else."""
    data = [images.read(i) for i in range(64)]
    ways: dict[str, Callable[[bytes], Any]] = {"decoding alone": decode}
    if found("simplejpeg"):
        import simplejpeg

        ways["decoding alone, simplejpeg"] = simplejpeg.decode_jpeg

    def side(way: Callable[[bytes], Any]) -> int:
        for item in data:
            way(item)
        return len(data)

    return {name: partial(side, way) for name, way in ways.items()}


def seconds_to_resume(images: ShardSet, rounds: int) -> float:
    """Measure the seconds to the first batch in the middle of an epoch of ImageNet's size."""
    many = ShardSet(images.folder, images.split, images.classes, images.shards, images.data_hash)
    many.__dict__["entries"] = np.resize(images.entries, IMAGENET)
    plan = EpochPlan(IMAGENET, BATCH, 0)
    batches = ViewBatches(many, plan, preset("v2").views, SIZE)

    def side() -> int:
        next(steps(batches, plan.steps_per_epoch // 2, plan.steps_per_epoch, 1, CPU))
        return 1

    return interleaved({"resume": side}, rounds)["resume"].wall


def main() -> None:
    """Check that the sides agree, then time them on one core, then with two workers."""
    quick = options(__doc__).quick
    begun = machine()
    torch.set_num_threads(1)
    rounds, count = (2, 2) if quick else (9, 4)
    images, folder, origin = photograph_shards(128 if quick else 256)
    files = PlainFiles(sorted(folder.rglob("*.jpg")))
    sides: dict[str, Batches] = {PLAIN: partial(ours, images)}
    peers, missing = loader_peers.with_workers(folder, images.folder / images.shards[0], SIZE, BATCH)
    alone, more_missing = loader_peers.in_process(folder, SIZE, BATCH)
    missing |= more_missing
    if fused_views.available():
        sides[COMPILED] = partial(ours, images, compiled=True)
    else:
        missing[COMPILED] = "no C++ compiler or no libjpeg-turbo when the package was installed"
    others = {name: make(0) for name, make in (sides | peers).items() if name != PLAIN}
    proofs = [same_views(images, preset("v2").views, SIZE), origin]
    proofs += same_distribution(sides[PLAIN](0), others, len(images) // BATCH)
    with one_core():
        timed = {name: in_process(make, count) for name, make in (sides | peers).items()}
        timed["ours, from plain files"] = in_process(partial(ours, files), count)
        timed["ours, then normalized to float32"] = in_process(partial(ours_as_float, images), count)
        timed |= {name: make(1) for name, make in alone.items()}
        decoders = decoding(images)
        costs = interleaved(timed | decoders, rounds)
    limit = min(costs[name].wall for name in decoders)
    table = "One core, ms an image"
    rows = rows_beside(table, costs, limit, 0)
    for mine, other, goal in (
        (PLAIN, "ours, from plain files", 0.97),
        ("ours, then normalized to float32", "official, as written", None),
    ):
        own, beside = costs[mine], costs[other]
        rows.append(
            Row(table, mine, "ms", 1e3 * own.wall, other, 1e3 * beside.wall, 1e3 * own.cpu, 1e3 * beside.cpu, goal)
        )
    both = {name: with_workers(make, 2 * count) for name, make in (sides | peers).items()}
    both |= {name: make(2) for name, make in alone.items()}
    costs = interleaved(both, rounds, 0 if quick else 1)  # each round discards its first batches
    rows += rows_beside("Two workers to the main process, ms an image", costs, limit / 2, 1)
    rows.append(
        Row(
            "Starting",
            "resume in the middle of an epoch of 1.28 million images",
            "s",
            seconds_to_resume(images, rounds),
            at_most=1.0,
        )
    )
    rows += [Row("Two views", name, "ms", not_run=reason) for name, reason in missing.items()]
    save("loader", rows, proofs, begun, quick)


if __name__ == "__main__":
    main()
