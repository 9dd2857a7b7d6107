"""What of this machine a run uses, and what stays idle."""

import os

import torch

from moco.cores import cores
from moco.devices import Precision, describe, gpus
from moco.processes import Processes
from moco.training.run import Run

NAMES: dict[Precision, str] = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}


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
