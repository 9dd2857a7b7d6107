"""Part 5: the collectives of training over NCCL, in a group of one process (gloo on a CPU)."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from benchmarks.gpu.sides import distances, parts_of, small_case, smooth, trained
from benchmarks.gpu.training import Training, views_of
from benchmarks.gpu.versions import ROOT
from benchmarks.shuffle_bn import loopback
from moco.dictionary.shuffle_bn import Shuffle, Traveling, indices_on, positions_of_slots
from moco.processes import Processes
from moco.runs.agreement import Agreement
from moco.training.setup import average_gradients

IMAGES = 33
PATIENCE = timedelta(seconds=20)
LEAVE = 10.0
"""Seconds within which a process ends after an error."""


def join(chip: Chip) -> Processes:
    """Join groups of this process alone, as moco.processes.join does for several.

    It claims two processes, because the library leaves collectives out where there is one.
    """
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback(), "NCCL_SOCKET_IFNAME": loopback()}
    device_id = chip.device if chip.gpu else None
    backend = "nccl" if chip.gpu else "gloo"
    dist.init_process_group(
        backend, store=dist.HashStore(), rank=0, world_size=1, timeout=PATIENCE, device_id=device_id
    )
    in_step = dist.new_group(timeout=PATIENCE)
    return Processes(0, 2, chip.device, in_step, dist.new_group(timeout=PATIENCE, backend="gloo"))  # type: ignore[arg-type]


def traveled(processes: Processes) -> bool:
    """Tell whether images of uint8 arrive in the order of the shuffle."""
    device = processes.device
    images = torch.randint(256, (IMAGES, 3, 16, 16), dtype=torch.uint8, device=device)
    positions = positions_of_slots(0, 0, IMAGES)
    every, arriving = indices_on(device, torch.arange(IMAGES).numpy()), indices_on(device, positions)
    shuffle = Shuffle([IMAGES], [IMAGES], every, arriving, arriving.argsort(), IMAGES)
    return torch.equal(Traveling(images, shuffle, processes).arrive(), images.index_select(0, arriving))


def gathered(processes: Processes) -> bool:
    """Tell whether keys, sums and objects come back from the groups."""
    keys = torch.randn(IMAGES, 8, device=processes.device)
    parts, total, objects = [torch.empty_like(keys)], keys.clone(), list[Any]([None])
    dist.all_gather(parts, keys, group=processes.in_step)
    dist.all_reduce(total, group=processes.in_step)
    dist.all_gather_object(objects, {"loss": 1.0})
    dist.barrier()
    return torch.equal(parts[0], keys) and torch.equal(total, keys) and objects == [{"loss": 1.0}]


def synchronized_norm(chip: Chip) -> float:
    """Measure how far synchronized batch norm is from the plain one, output and gradient."""
    found: list[Tensor] = []
    for kind in (nn.SyncBatchNorm if chip.gpu else nn.BatchNorm2d, nn.BatchNorm2d):
        torch.manual_seed(0)
        images = torch.randn(8, 5, 6, 6).to(chip.device).requires_grad_()
        output = kind(5).to(chip.device)(images)
        output.square().mul(images.detach()).sum().backward()
        found.append(torch.cat([output.detach().flatten(), images.grad.flatten()]))  # type: ignore[union-attr]
    return float((found[0] - found[1]).norm() / found[1].norm())


def agreed(processes: Processes) -> bool:
    """Tell whether wishes are followed one step after they were stated."""
    agreement = Agreement(processes)
    wishes = [(False, False), (True, False), (False, True)]
    answers = [agreement.exchange(*wish) for wish in wishes]
    return [*answers, agreement.settle()] == [(False, False), *wishes]


def gradients(record: Record, chip: Chip, processes: Processes) -> None:
    """Compare steps whose gradients DistributedDataParallel averages with steps without it."""
    settings = small_case("momentum-queue", chip.gpu)
    batches = [views_of(settings, step) for step in range(2)]
    for part in parts_of(settings):
        expected = trained(smooth(Training(settings, chip.device, part=part)), batches)
        for in_bf16, at_most in ((False, 1e-4), (True, 0.02)):
            training = smooth(Training(settings, chip.device, part=part))
            training.encode_queries = average_gradients(
                training.model.encoder_q, settings, processes, training.autocast, in_bf16
            )
            found = trained(training, batches)
            how = f"{'whole' if part is None else 'in parts'}, {'bf16' if in_bf16 else 'fp32'}"
            record.check(f"averaged gradients, {how}: distance", distances(found, expected)["gradients"], at_most)


def seconds_to_leave(chip: Chip) -> float:
    """Seconds from an error within a group to the end of its process; infinite if it hangs.

    Raises:
        RuntimeError: the process ended before its error.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.nccl", chip.device.type]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        if not (said := process.stdout.readline()):
            raise RuntimeError("a process that was to join a group and fail ended before its error")
        try:
            process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            return float("inf")
        return time.monotonic() - float(said)


def fail(chip: Chip) -> None:
    """Join, compute together, say when, and fail.

    Raises:
        RuntimeError: always.
    """
    gathered(join(chip))
    print(time.monotonic(), flush=True)
    raise RuntimeError("an error of the proof")


def nccl(record: Record, chip: Chip, scratch: Path) -> None:
    """Use every collective of training in a group of one process, and leave it."""
    record.check("seconds to leave after an error", seconds_to_leave(chip), LEAVE)
    processes = join(chip)
    record.require("key images arrive in the order of the shuffle", traveled(processes))
    record.require("gathers give what was sent", gathered(processes))
    record.check("synchronized batch norm: distance", synchronized_norm(chip), 1e-5)
    record.require("wishes are followed one step later", agreed(processes))
    gradients(record, chip, processes)
    began = time.monotonic()
    dist.destroy_process_group()
    record.check("seconds to leave in order", time.monotonic() - began, LEAVE)


if __name__ == "__main__":
    fail(Chip.of(sys.argv[1]))
