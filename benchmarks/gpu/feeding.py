"""Part 8: whether this machine's loader feeds the step, and where the step's time goes."""

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.epoch import DISCARDED, counted
from benchmarks.gpu.chip import Chip
from benchmarks.gpu.pictures import photographs, write
from benchmarks.gpu.record import Record
from benchmarks.gpu.speed import Way, made
from benchmarks.measure import timed
from benchmarks.scaling_model import preset
from moco.cluster.machine import Machine
from moco.images import fused_views
from moco.images.batches import ViewBatches
from moco.images.index import open_split
from moco.images.loader import steps
from moco.images.plan import EpochPlan
from moco.processes import keep_freed_memory


def feeding(record: Record, chip: Chip, scratch: Path) -> None:
    """Time the loader alone, the step alone, and both at once, on JPEGs made here."""
    keep_freed_memory()
    chip.free()
    training, fixed = made(Way(), chip)
    settings = training.settings
    shards = write(scratch / "photographs", {"train": settings.global_batch}, photographs(), ["all"])
    images = open_split(shards, "train")
    record.add("kB an image", float(np.mean(images.entries["size"])) / 1e3)
    plan = EpochPlan(len(images), settings.global_batch, 0)
    drawn, workers = preset("v2").views, Machine().workers()
    views = ViewBatches(images, plan, drawn, settings.image_size, compiled=fused_views.available())
    count = 12 if chip.gpu else 1
    batches = partial(steps, views, 0, DISCARDED + count, workers, chip.device)
    record.add("loader processes", workers)
    rates = {}
    for name, data, train in (
        ("loader alone", batches, None),
        ("step alone", None, training.step),
        ("both", batches, training.step),
    ):
        done, wall, _ = timed(counted(data, train, fixed, count))
        rates[name] = settings.global_batch * done / wall
        record.add(f"{name}, images/s", rates[name])
    record.add("both beside the slower one", rates["both"] / min(rates["loader alone"], rates["step alone"]))
    record.add("loader beside the step", rates["loader alone"] / rates["step alone"])
    tensors, reserved = chip.peak()
    record.add("most memory of tensors, GiB", tensors)
    record.add("most memory reserved, GiB", reserved)
    record.add("top kernels, share of their time", chip.traced(lambda: training.step(fixed)).top(10))
