"""Part 7: how fast a step of ResNet-50 is, beside what the card could compute."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from benchmarks.gpu.training import Training, views_of
from benchmarks.step import case, peak
from moco.config import Pretrain
from moco.devices import describe
from moco.dictionary.momentum_encoder import MomentumEncoder

TFLOP_AN_IMAGE = 0.033
"""Of a MoCo step of ResNet-50 at 224 pixels: two forward passes and a backward pass."""
PEAKS = {
    "H200": (67, 494, 989),
    "H100 PCIe": (51, 378, 756),
    "H100": (67, 494, 989),
    "A100": (19.5, 156, 312),
    "RTX 4090": (82.6, 82.6, 165),
}
"""TFLOP/s of the cards' data sheets, without sparsity: float32, TF32, bfloat16."""
PRECISIONS = ("fp32", "tf32", "bf16")
COMPILING = 70.0
"""Seconds that compiling both encoders may take."""


@dataclass(frozen=True)
class Way:
    """A way to take the same step.

    Attributes:
        precision: of the encoders.
        group: images that share batch-norm statistics; 0: all.
        channels_last: the layout of images and weights.
        batch: images; 0: as many as the whole case has.
        compiled: encoders by torch.compile.
        captured: the step as a CUDA graph.
    """

    precision: str = "bf16"
    group: int = 32
    channels_last: bool = True
    batch: int = 0
    compiled: bool = False
    captured: bool = False


WAYS = {
    "bf16, channels_last": Way(),
    "bf16, channels_last, one group": Way(group=0),
    "bf16": Way(channels_last=False),
    "tf32, channels_last": Way("tf32"),
    "fp32, channels_last": Way("fp32"),
    "bf16, channels_last, batch 32": Way(batch=32),
    "bf16, channels_last, batch 32, CUDA graph": Way(batch=32, captured=True),
    "bf16, channels_last, compiled": Way(compiled=True),
}


def settings_of(way: Way, gpu: bool) -> Pretrain:
    """Give the case that a way is measured on; a dry run has a small one."""
    whole = case("resnet50", 224, way.batch or 256, 65536) if gpu else case("thin", 16, way.batch or 64, 256)
    update = {"precision": way.precision, "bn_group_size": way.group or whole.global_batch}
    return whole.model_copy(update=update)


def made(way: Way, chip: Chip) -> tuple[Training, Tensor]:
    """Make a run, and the views that all its steps take."""
    settings = settings_of(way, chip.gpu)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    training = Training(settings, chip.device, layout=layout)
    views = views_of(settings).to(chip.device)
    if way.compiled:
        chip.compile(training.model.encoder_q)
        if isinstance(training.model.dictionary, MomentumEncoder):
            chip.compile(training.model.dictionary.encoder_k)
    return training, views if way.channels_last else views.contiguous()


def captured(training: Training, views: Tensor, chip: Chip) -> Callable[[], Any]:
    """Capture a run's step: its images, shuffle and rates lie in memory that each replay reads."""
    training.step(views)  # makes what lasts
    shuffle = training.shuffle

    def work() -> None:
        training.optimizer.zero_grad()
        training.compute(views, shuffle)

    return chip.captured(work)


def speed(record: Record, chip: Chip, scratch: Path) -> None:
    """Time each way; one that cannot be taken is noted, and the next one follows."""
    peaks = next((found for name, found in PEAKS.items() if name in describe(chip.device)), None)
    record.add("data sheet, TFLOP/s", dict(zip(PRECISIONS, peaks, strict=True)) if peaks else None)
    if chip.gpu:
        record.add("a product or convolution in bf16, TFLOP/s", peak(torch.bfloat16, chip.device) / 1e12)
    for name, way in WAYS.items():
        if way.compiled and chip.gpu and record.left < COMPILING:
            record.note(f"{name}: {record.left:.0f} s are left, {COMPILING:.0f} s may be needed")
            continue
        begin = time.monotonic()
        try:
            record.add(name, timed(way, chip, peaks) | {"s with preparing": time.monotonic() - begin})
        except (RuntimeError, torch.OutOfMemoryError) as error:
            record.note(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
        chip.free()
        if name == "bf16, channels_last, one group":
            look_inside(record, chip)


def timed(way: Way, chip: Chip, peaks: tuple[float, float, float] | None) -> dict[str, float]:
    """Time the steps of a way."""
    training, views = made(way, chip)
    batch = training.settings.global_batch
    work = captured(training, views, chip) if way.captured else lambda: training.step(views)
    taken = chip.milliseconds(work, 12 if chip.gpu else 2, warm_up=4 if chip.gpu else 1)
    rate = TFLOP_AN_IMAGE * batch / taken * 1e3 if chip.gpu else 0.0
    found = {"ms": taken, "images/s": 1e3 * batch / taken, "TFLOP/s": rate}
    found |= dict(zip(("GiB of tensors", "GiB reserved"), chip.peak(), strict=True))
    return found | ({"of the data sheet": rate / peaks[PRECISIONS.index(way.precision)]} if peaks else {})


def look_inside(record: Record, chip: Chip) -> None:
    """Count the kernels of a step with one group and with several, and time the host."""
    for name, way in (("32 images a group", Way()), ("one group", Way(group=0))):
        training, views = made(way, chip)
        for _ in range(3):
            training.step(views)
        chip.wait()
        trace = chip.traced(lambda training=training, views=views: training.step(views))  # type: ignore[misc]
        record.add(f"kernels a step, {name}", len(trace.kernels))
        record.add(f"host ms before the first kernel, {name}", trace.before_first)
        began = time.perf_counter()
        training.step(views)
        record.add(f"host ms a step, {name}", 1e3 * (time.perf_counter() - began))
        chip.free()
