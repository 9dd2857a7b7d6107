"""What of this machine a run uses, what stays idle, and which side will wait for the other."""

import copy
import os
import time

import numpy as np
import torch
from torch import nn

from moco.cores import cores
from moco.devices import Precision, describe, gpus
from moco.images.batches import ViewBatches
from moco.processes import Processes
from moco.training.run import Run

NAMES: dict[Precision, str] = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
SAMPLE = 16
"""Images whose views are timed."""


def used(run: Run, processes: Processes, precision: Precision, compiled: bool) -> str:
    """Say where a run's processes compute, and in what."""
    device, workers = processes.device, run.machine.workers()
    peers = {"cuda": "NCCL", "cpu": "gloo"}[device.type] if processes.world_size > 1 else "alone"
    strictly = ", TF32 off" if (device.type, precision) == ("cuda", "fp32") else ""
    threads = f" of {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return (
        f"each process on {describe(device)}{threads}, {peers}, {NAMES[precision]}{strictly}{', compiled' if compiled else ''},"
        f" {workers} loader process(es) each"
    )


def idle(run: Run) -> str | None:
    """Say what of this host stays idle, and why; None: nothing does."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    have, unit = gpus(run.machine.training_device), "GPU"
    busy = local
    if not have:
        have, unit, busy = cores(), "core", local * (cores() // local)
    if busy >= have:
        return None
    groups = run.settings.global_batch // run.settings.bn_group_size
    why = (
        f"processes = {local} in machine.yaml"
        if run.machine.processes
        else f"the {groups} groups of pretrain.bn_group_size = {run.settings.bn_group_size} images cannot be shared out"
        f" equally over {have}"
    )
    return f"{have - busy} of {have} {unit}s of this host stay idle: {why}"


def views_per_second(views: ViewBatches, step: int) -> float:
    """Measure how many images' views one core makes in a second."""
    count = min(SAMPLE, views.count)
    batch = np.empty((views.per_image, views.count, views.size, views.size, 3), np.uint8)
    views.fill(step, slice(0, 1), batch)  # compiles and opens what is compiled and opened once
    began = time.perf_counter()
    views.fill(step, slice(0, count), batch)
    return count / (time.perf_counter() - began)


def trained_per_second(encoder_q: nn.Module, images: int, size: int, autocast: torch.autocast) -> float:
    """Measure how many images a second a device trains, the keys' forward pass included.

    Args:
        encoder_q: the query encoder; a copy of it works.
        images: encoded together.
        size: S, pixels.
        autocast: the precision.
    """
    encoder, device = copy.deepcopy(encoder_q), next(encoder_q.parameters()).device
    zeros = torch.zeros(images, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(3):  # the first chooses kernels
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        with autocast:
            encoder(zeros).sum().backward()
            with torch.no_grad():
                encoder(zeros)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return images / min(seconds)


def balance(fed: float, trained: float) -> str:
    """Say which side is the slower one.

    Args:
        fed: images a second that the loader prepares for one process.
        trained: images a second that it trains.
    """
    slower = "the loader is the slower side" if fed < trained else "training is the slower side"
    return (
        f"a short measurement: {fed:.0f} images/s prepared, {trained:.0f} images/s trained for each process; {slower}"
    )
