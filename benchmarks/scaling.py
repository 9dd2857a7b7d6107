"""Measure steps of 1 and 2 processes and each collective, and model 8 to 512 GPUs.

    python -m benchmarks.scaling [--quick]   measure this machine's processes: gloo on CPUs
    python -m benchmarks.scaling --check     the model's formulas beside this machine's collectives
    python -m benchmarks.scaling --model     the model's tables (docs/scaling.md)

The step is that of moco.training.loop on random images, without the loader, the curves and the
checkpoints.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.scaling_model import (
    Network,
    Sizes,
    all_gather,
    all_reduce,
    all_to_all,
    parts,
    preset,
    sizes,
    step,
    tables,
)
from benchmarks.shuffle_bn import DIM, KEY, PER_RANK, SIDE, gathered, mb, on_ranks
from benchmarks.training_steps import (
    GRADIENTS,
    IMAGES,
    KEYS,
    LATE,
    WARM_UP,
    WISHES,
    alternating,
    seconds_of_steps,
    seconds_side_by_side,
)
from moco.config import Pretrain
from moco.devices import compute_in
from moco.dictionary.shuffle_bn import Shuffle, Traveling, from_slots, positions_of_slots
from moco.encoders.kinds import network_of
from moco.processes import Processes

THIN = preset("small")
RESNET18 = THIN.model_copy(
    update={"encoder": network_of("resnet18", "imagenet"), "image_size": 64, "global_batch": 64, "bn_group_size": 32}
)
LARGE = 1 << 24  # bytes of the message that measures a link


def scaling_table(rounds: int, steps: int) -> str:
    """Images/s with 1 and with 2 processes and the same global batch, in Markdown."""
    lines = [
        "| encoder | processes | images/s | ms a step | to one process | all_to_all of images | all_gather of keys | gradients all_reduce | of it after backward | requests |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for settings in (THIN, RESNET18):
        medians = alternating(
            {str(world_size): (world_size, seconds_of_steps, settings) for world_size in (1, 2)}, rounds, steps
        )
        for world_size, middle in medians.items():
            shares = (
                f"{middle[name] / middle['step']:.1%}" if middle.get(name) and world_size != "1" else "–"
                for name in (IMAGES, KEYS, GRADIENTS, LATE, WISHES)
            )
            lines.append(
                f"| {settings.encoder.label}, {settings.image_size} px, batch {settings.global_batch} | {world_size}"
                f" | {settings.global_batch / middle['step']:,.0f} | {1e3 * middle['step']:.1f}"
                f" | {medians['1']['step'] / middle['step']:.2f} | {' | '.join(shares)} |"
            )
    return "\n".join(lines)


def exchange_in_ring(buffer: Tensor, arriving: Tensor, processes: Processes) -> None:
    """Every process sends to the next and receives from the one before."""
    following, before = ((processes.rank + 1) % processes.world_size, (processes.rank - 1) % processes.world_size)
    pending = dist.isend(buffer, following), dist.irecv(arriving, before)
    for work in pending:
        if work is not None:
            work.wait()


def collectives(processes: Processes, size: Sizes, rounds: int) -> dict[str, list[float]]:
    """Seconds of this machine's links and of each collective of a step, round by round."""
    world_size = processes.world_size
    large = torch.ones(LARGE, dtype=torch.uint8)
    one = torch.ones(1, dtype=torch.uint8)
    images = torch.ones(PER_RANK, 3, SIDE, SIDE, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    rows, floats = images.flatten(1), images.float()
    keys, gradients = torch.ones(PER_RANK, DIM), torch.ones(size.gradients // 4)
    large_too, one_too, rows_too = torch.ones_like(large), torch.ones_like(one), torch.ones_like(rows)
    parts_of_keys = [torch.ones_like(keys) for _ in range(world_size)]
    parts_of_floats = [torch.ones_like(floats) for _ in range(world_size)]
    positions = positions_of_slots(0, 0, PER_RANK * world_size)
    calls: dict[str, Callable[[], Any]] = {
        "latency": lambda: exchange_in_ring(one, one_too, processes),
        "large message": lambda: exchange_in_ring(large, large_too, processes),
        "shuffle": lambda: dist.all_to_all_single(rows_too, rows),
        "shuffle in the code": lambda: Traveling(images, Shuffle.of(positions, processes), processes).arrive(),
        "keys": lambda: dist.all_gather(parts_of_keys, keys),
        "keys in the code": lambda: from_slots(keys, Shuffle.of(positions, processes), processes),
        "official images": lambda: dist.all_gather(parts_of_floats, floats),
        "official images in the code": lambda: gathered(floats, processes),
        "gradients": lambda: dist.all_reduce(gradients),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP + rounds):
        for name, call in calls.items():
            processes.barrier()
            begin = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - begin)
        gradients.fill_(1)
    return {name: seconds[WARM_UP:] for name, seconds in found.items()}


def check_tables(rounds: int, steps: int) -> str:
    """Compare the model's formulas with this machine's collectives and step, in Markdown."""
    size = sizes(preset("v2"))
    lines = [
        "| processes | collective | predicted, ms | the call alone, ms | predicted / measured | in the code, ms |",
        "|---|---|---|---|---|---|",
    ]
    links, said = {}, []
    for world_size in (2, 4):
        ranks = on_ranks(world_size, collectives, size, 10 * rounds)
        measured = {
            name: statistics.median(map(max, zip(*(rank[name] for rank in ranks), strict=True))) for name in ranks[0]
        }
        latency, bandwidth = measured["latency"], LARGE / measured["large message"]
        links[world_size] = Network(world_size, bandwidth, bandwidth, latency, latency)
        said.append(
            f"{world_size} processes in a ring, each sending and receiving at once: {mb(LARGE)} MB at {bandwidth / 1e6:,.0f} MB/s, a byte in {1e6 * latency:,.0f} us."
        )
        predicted = parts(world_size, PER_RANK, size, links[world_size])
        for name in ("shuffle", "keys", "official images", "gradients"):
            in_code = measured.get(f"{name} in the code")
            lines.append(
                f"| {world_size} | {name} | {1e3 * predicted[name]:.2f} | {1e3 * measured[name]:.2f}"
                f" | {predicted[name] / measured[name]:.2f} | {f'{1e3 * in_code:.2f}' if in_code else '–'} |"
            )
    lines += [
        "",
        "| encoder, 2 processes | half the batch alone, ms | beside another that does the same, ms | predicted step, ms | measured, ms | predicted / measured |",
        "|---|---|---|---|---|---|",
    ]
    lines += [whole_step(settings, links[2], rounds, steps) for settings in (THIN, RESNET18)]
    return "\n".join([*said, "", *lines])


def whole_step(settings: Pretrain, link: Network, rounds: int, steps: int) -> str:
    """Predict a step of two processes from ones that train half the batch alone; a table's line."""
    half = settings.model_copy(update={"global_batch": settings.global_batch // 2})
    medians = alternating(
        {
            "alone": (1, seconds_of_steps, half),
            "beside": (2, seconds_side_by_side, half),
            "together": (2, seconds_of_steps, settings),
        },
        rounds,
        steps,
    )
    alone, beside, measured = (medians[name]["step"] for name in ("alone", "beside", "together"))
    images = all_to_all(2, half.global_batch * 3 * settings.image_size**2, link)
    keys = all_gather(2, half.global_batch * KEY, link)
    low, high = step(beside, images + keys, all_reduce(2, sizes(settings).gradients, link))
    return (
        f"| {settings.encoder.label}, {settings.image_size} px, batch {settings.global_batch} | {1e3 * alone:.1f} | {1e3 * beside:.1f}"
        f" | {1e3 * low:.1f}–{1e3 * high:.1f} | {1e3 * measured:.1f} | {low / measured:.2f}–{high / measured:.2f} |"
    )


def main() -> None:
    """Measure, check or predict, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps")
    parser.add_argument("--check", action="store_true", help="the model beside this machine's collectives")
    parser.add_argument("--model", action="store_true", help="the model's tables")
    parser.add_argument("--images-per-second", type=float, help="of one GPU, for a table of its own in --model")
    options = parser.parse_args()
    rounds, steps = (1, 8) if options.quick else (3, 30)
    if options.model:
        print(tables(options.images_per_second))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}", end="")
    if options.check:
        print(
            f", gloo on the loopback, one thread a process; medians of {10 * rounds} calls and of {rounds * steps} steps\n"
        )
        print(check_tables(rounds, steps))
    else:
        bf16 = "bf16" if compute_in(THIN.precision, torch.device("cpu")) == "bf16" else "float32"
        print(
            f", gloo on the loopback, one thread a process, {bf16}; medians of {rounds * steps} steps in {rounds} alternating rounds."
            "\nShares of the step's time: waiting for the slower process is in them.\n"
        )
        print(scaling_table(rounds, steps))


if __name__ == "__main__":
    main()
