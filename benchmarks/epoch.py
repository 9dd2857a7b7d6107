"""Compare loader and step at once with the slower of the two: `python -m benchmarks.epoch`."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.loader_peers import endless
from benchmarks.measure import Cost, Row, Side, apart, cpu_seconds, interleaved, machine, options, save
from benchmarks.official import moco_v2, official_step
from benchmarks.photographs import photograph_shards
from benchmarks.step import case, fastest, images_of, ours, queue_of, same_weights, title
from moco.config import Pretrain
from moco.images import fused_views
from moco.images.batches import ViewBatches
from moco.images.loader import steps
from moco.images.plan import EpochPlan
from moco.processes import keep_freed_memory
from moco.training.setup import build

DISCARDED = 6
"""Batches before the counted ones, by which time nothing is ahead any more that was made before."""


def device() -> torch.device:
    """Choose the accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def counted(
    batches: Callable[[], Iterator[Any]] | None, train: Callable[[Any], Any] | None, fixed: Any, count: int
) -> Side:
    """Make a side that counts `count` batches: made, trained on, or both.

    Args:
        batches: begins to make them; None: `fixed` is trained on again and again.
        train: a step; None: they are thrown away.
    """

    def take() -> tuple[int, float, float]:
        data = batches() if batches else iter(lambda: fixed, None)
        wall = cpu = 0.0
        before = DISCARDED if batches else 1
        for number in range(before + count):
            if number == before:
                finish()
                wall, cpu = time.perf_counter(), cpu_seconds()
            batch = next(data)
            if train:
                train(batch)
        finish()
        return count, time.perf_counter() - wall, cpu_seconds() - cpu

    return take


def finish() -> None:
    """Wait for the accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def our_sides(settings: Pretrain, count: int, workers: int, threads: int) -> dict[str, Side]:
    """Ours: loader alone, step alone, both."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    images = photograph_shards(256)[0]
    plan = EpochPlan(len(images), settings.global_batch, 0)
    views = ViewBatches(images, plan, settings.views, settings.image_size, compiled=fused_views.available())
    data = partial(steps, views, 0, 10**9, workers, device())
    fastest(device())
    train, _ = ours(settings, device(), bf16=False)
    fixed = images_of(settings, device())
    return {
        "ours, loader": counted(data, None, None, count),
        "ours, step": counted(None, train, fixed, count),
        "ours, both": counted(data, train, None, count),
    }


def their_sides(settings: Pretrain, count: int, workers: int, threads: int) -> dict[str, Side]:
    """Make the official recipe's side: loader and step at once."""
    torch.set_num_threads(threads)
    fastest(device())
    folder: Path = photograph_shards(256)[1]
    data = partial(endless, folder, settings.global_batch, moco_v2(settings.image_size), workers)
    model = build(settings, 0).to(device())
    step, _ = official_step(
        same_weights(model, settings),
        queue_of(model).keys,
        float(queue_of(model).momentum),
        settings.temperature,
        0.03,
        False,
    )

    def train(views: list[Tensor]) -> Tensor:
        return step(*(view.to(device(), non_blocking=True) for view in views))

    return {"official, both": counted(data, train, None, count)}


def rows(settings: Pretrain, costs: dict[str, Cost]) -> list[Row]:
    """Images/s of the whole beside those of the slower part, and beside the official recipe's."""
    loader, step, both, theirs = (
        costs[name] for name in ("ours, loader", "ours, step", "ours, both", "official, both")
    )
    slower, name = max((loader, "loader alone"), (step, "step alone"), key=lambda part: part[0].wall)
    rate, note = (
        settings.global_batch,
        f"loader alone {settings.global_batch / loader.wall:,.0f}, step alone {settings.global_batch / step.wall:,.0f} images/s",
    )
    ours_cpu = 1e3 * both.cpu
    return [
        Row(
            title(settings),
            "loader and step at once",
            "images/s",
            rate / both.wall,
            name,
            rate / slower.wall,
            at_least=0.9,
            limit=rate / slower.wall,
            limit_name="the slower part",
            note=note,
        ),
        Row(
            title(settings),
            "loader and step at once",
            "ms",
            1e3 * both.wall,
            "official, fp32",
            1e3 * theirs.wall,
            ours_cpu,
            1e3 * theirs.cpu,
        ),
    ]


def main() -> None:
    """Measure a case that the step bounds, and one in which loader and step are closer."""
    quick = options(__doc__).quick
    begun = machine()
    photograph_shards(256)
    table: list[Row] = []
    cases = [(case("resnet18", 64, 64, 4096), 1, 1), (case("resnet18", 32, 128, 4096), 1, 1)]
    if torch.cuda.is_available():
        cases = [(case("resnet50", 224, 256, 65536), 14, 2)]
    else:
        table.append(
            Row(
                "resnet50, 224 px, batch 256, K 65536",
                "the whole epoch of ResNet-50 on a GPU",
                "images/s",
                not_run="no GPU",
            )
        )
    for settings, workers, threads in cases[: 1 if quick else None]:
        arguments = (settings, 4 if quick else 8, workers, threads)
        with apart(our_sides, *arguments) as mine, apart(their_sides, *arguments) as theirs:
            table += rows(settings, interleaved(mine | theirs, 3 if quick else 5, 0))
    save("epoch", table, [], begun, quick)


if __name__ == "__main__":
    main()
