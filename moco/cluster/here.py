"""What of this machine a run uses, and what stays idle."""

import os

import torch

from moco.cluster.machine import Machine
from moco.cores import cores
from moco.devices import Precision, describe, gpus
from moco.processes import Processes

NAMES: dict[Precision, str] = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}


def used(machine: Machine, processes: Processes, precision: Precision, compiled: bool = False) -> str:
    """Say where a run's processes compute, and in what."""
    device = processes.device
    peers = {"cuda": "NCCL", "cpu": "gloo"}[device.type] if processes.world_size > 1 else "alone"
    strictly = ", TF32 off" if (device.type, precision) == ("cuda", "fp32") else ""
    threads = f" of {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return (
        f"each process on {describe(device)}{threads}, {peers}, {NAMES[precision]}{strictly}"
        f"{', compiled' if compiled else ''}, {machine.workers()} loader process(es) each"
    )


def idle(machine: Machine, work: str) -> str | None:
    """Say what of this host stays idle, and why; None: nothing does.

    Args:
        machine: machine.yaml.
        work: what processes share out among them.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    have, unit, busy = gpus(machine.training_device), "GPU", local
    if not have:
        have, unit, busy = cores(), "core", local * max(1, cores() // local)
    if busy >= have:
        return None
    why = (
        f"processes = {local} in machine.yaml"
        if machine.processes
        else f"{work} cannot be shared out equally over {have}"
    )
    return f"{have - busy} of {have} {unit}s of this host stay idle: {why}"


def say(
    stage: str, machine: Machine, processes: Processes, precision: Precision, work: str, compiled: bool = False
) -> None:
    """Print both, on the first process; arguments as of `used` and `idle`."""
    if processes.first:
        print(f"{stage}: {used(machine, processes, precision, compiled)}", flush=True)
        if line := idle(machine, work):
            print(f"{stage}: {line}", flush=True)
