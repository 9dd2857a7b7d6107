"""Measure shuffling BN beside the official scheme: bytes for 2 to 64 processes, times at 2 and 4.

`python -m benchmarks.shuffle_bn [--quick]` prints the tables.

The official scheme gathers every key image as float32 on every process, each encodes its share of a
permutation that process 0 broadcasts, and the keys are gathered twice: to undo the shuffle, and to
be enqueued. It is restated below in plain torch.distributed. Bytes are counted from the calls that
either scheme makes: a rank receives what is sent to it by others, and sends as much; what it keeps
is not counted, and all_gather and broadcast count as a ring sends them. Image of 3 x 224 x 224, key
of 128 float32.
"""

import argparse
import os
import platform
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from moco.dictionary.shuffle_bn import Shuffle, Traveling, from_slots, positions_of_slots
from moco.encoders.normalize import normalize
from moco.permutation import Integers
from moco.processes import Processes, join, leave

SIDE, DIM, PER_RANK = 224, 128, 32
IMAGE = 3 * SIDE * SIDE  # bytes as uint8; four times that as float32
KEY = 4 * DIM  # bytes

Encode = Callable[[Tensor], Tensor]


def ours(images: Tensor, positions: Integers, processes: Processes, encode: Encode) -> Tensor:
    """Keys of all positions, B x C, from this process's uint8 images, N x 3 x S x S."""
    shuffle = Shuffle.of(positions, processes)
    return from_slots(encode(normalize(Traveling(images, shuffle, processes).arrive())), shuffle, processes)


def official(images: Tensor, positions: Integers, processes: Processes, encode: Encode) -> Tensor:
    """Compute the same keys by the official scheme; process 0 broadcasts `positions`."""
    local = slice(processes.rank * len(images), (processes.rank + 1) * len(images))
    everything = gathered(normalize(images), processes)  # B x 3 x S x S
    order = torch.from_numpy(positions).to(images.device)
    if processes.rank:
        order = torch.empty_like(order)
    dist.broadcast(order, src=0)
    slots = encode(everything[order[local]])  # N x C
    mine = gathered(slots, processes)[torch.argsort(order)[local]]  # N x C
    return gathered(mine, processes)


def gathered(rows: Tensor, processes: Processes) -> Tensor:
    """Every process's rows, in rank order."""
    parts = [torch.empty_like(rows) for _ in range(processes.world_size)]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def slice_less_group_mean(images: Tensor) -> Tensor:
    """Stand in for an encoder: 128 values of each image, less their mean over the batch.

    It costs nothing, and like batch norm it shows in whose company an image was encoded.
    """
    rows = images[:, 0, 0, :DIM].contiguous()
    return rows - rows.mean(dim=0)


@contextmanager
def counted(rank: int) -> Iterator[Counter[str]]:
    """Count the bytes that a rank receives from others, by call; no collective is carried out."""
    received: Counter[str] = Counter()

    def all_to_all(output: Tensor, source: Tensor, arriving: list[int], leaving: list[int], **_: Any) -> None:
        row = output[0].numel() * output.element_size()
        sent = row * (sum(leaving) - leaving[rank])
        received["all_to_all"] += row * (sum(arriving) - arriving[rank])
        assert sent == row * (sum(arriving) - arriving[rank])  # one column of the table stands for both

    def all_gather(parts: list[Tensor], rows: Tensor, **_: Any) -> None:
        what = "all_gather of images" if rows.dim() > 2 else "all_gather of keys"
        received[what] += sum(part.numel() * part.element_size() for i, part in enumerate(parts) if i != rank)

    def broadcast(values: Tensor, src: int) -> None:
        received["broadcast"] += values.numel() * values.element_size() if rank != src else 0

    with (
        mock.patch.object(dist, "all_to_all_single", all_to_all),
        mock.patch.object(dist, "all_gather", all_gather),
        mock.patch.object(dist, "broadcast", broadcast),
    ):
        yield received


def traffic(scheme: Callable[..., Tensor], world_size: int, per_rank: int, steps: int) -> list[Counter[str]]:
    """Count what a rank receives in a step: bytes by call, one counter for every rank and step.

    The scheme runs on shapes alone (the meta device), with the permutations of real steps.
    """
    device = torch.device("meta")
    images = torch.empty(per_rank, 3, SIDE, SIDE, dtype=torch.uint8, device=device)
    found = []
    for step in range(steps):
        positions = positions_of_slots(0, step, world_size * per_rank)
        for rank in range(world_size):
            with counted(rank) as received:
                scheme(images, positions, Processes(rank, world_size, device), slice_less_group_mean)
            found.append(received)
    return found


def expected(world_size: int, per_rank: int) -> float:
    """Compute our bytes: an image stays with probability 1/W, the others' keys arrive."""
    return per_rank * IMAGE * (1 - 1 / world_size) + (world_size - 1) * per_rank * KEY


def expected_official(world_size: int, per_rank: int) -> float:
    """Compute theirs: the others' float32 images, their keys twice, the permutation."""
    others = world_size - 1
    return others * per_rank * (4 * IMAGE + 2 * KEY) + 8 * world_size * per_rank * others / world_size


def mb(size: float) -> str:
    """Bytes as MB (10^6) with three figures."""
    value = size / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def traffic_table(rows: list[tuple[int, int]], steps: int) -> str:
    """Both schemes' bytes for (world size, images a rank), one line each, in Markdown."""
    lines = [
        "| ranks | global batch | a rank | ours: images | keys | sum (highest of a rank) | formula | official: images | keys | sum | formula | official / ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for world_size, per_rank in rows:
        mine = traffic(ours, world_size, per_rank, steps)
        theirs = traffic(official, world_size, per_rank, 1)
        mean = {name: statistics.mean(item[name] for item in mine) for name in mine[0]}
        mean_theirs = {name: statistics.mean(item[name] for item in theirs) for name in theirs[0]}
        total, total_theirs = sum(mean.values()), sum(mean_theirs.values())
        lines.append(
            f"| {world_size} | {world_size * per_rank} | {per_rank} | {mb(mean['all_to_all'])} | {mb(mean['all_gather of keys'])}"
            f" | {mb(total)} ({mb(max(item.total() for item in mine))}) | {mb(expected(world_size, per_rank))}"
            f" | {mb(mean_theirs['all_gather of images'])} | {mb(mean_theirs['all_gather of keys'])} | {mb(total_theirs)}"
            f" | {mb(expected_official(world_size, per_rank))} | {total_theirs / total:.1f} |"
        )
    return "\n".join(lines)


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(processes, *arguments)` in gloo processes; give their results by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ProcessPoolExecutor(world_size, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_as_rank, rank, world_size, port, function, arguments) for rank in range(world_size)]
        return [item.result() for item in waiting]


def _as_rank(rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": loopback(),
    }
    torch.set_num_threads(1)
    processes = join("cpu")
    try:
        return function(processes, *arguments)
    finally:
        processes.barrier()
        leave()


def loopback() -> str:
    """Give the name of the loopback interface."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def sent_on_loopback() -> int:
    """Count the bytes that the kernel has sent over the loopback; 0 where it does not say."""
    counter = Path(f"/sys/class/net/{loopback()}/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else 0


def race(processes: Processes, rounds: int) -> dict[str, list[tuple[float, float, int]]]:
    """Run both schemes in turn: wall and CPU seconds, and bytes on the loopback, of each round.

    Raises:
        AssertionError: they do not give the same keys, to the bit.
    """
    images = torch.randint(
        256, (PER_RANK, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(processes.rank)
    ).contiguous(memory_format=torch.channels_last)
    schemes = {"ours": ours, "official": official}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in schemes}
    for number in range(rounds + 2):
        positions = positions_of_slots(0, number, PER_RANK * processes.world_size)
        keys = {}
        for name in sorted(schemes, reverse=number % 2 == 0):
            processes.barrier()
            wire = sent_on_loopback()
            processes.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            keys[name] = schemes[name](images, positions, processes, slice_less_group_mean)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            processes.barrier()
            if number >= 2:  # the first two warm the connections up
                found[name].append((*spent, sent_on_loopback() - wire))
        assert torch.equal(keys["ours"], keys["official"]), "the two schemes' keys differ; one of them is wrong"
    return found


def time_table(world_sizes: list[int], rounds: int) -> str:
    """Medians of alternating rounds, one line for each number of processes, in Markdown."""
    lines = [
        "| ranks | ours, ms | official, ms | official / ours | CPU of a rank: ours, ms | official, ms | on the wire, a rank: ours, MB | official, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for world_size in world_sizes:
        results = on_ranks(world_size, race, rounds)
        wall, cpu, wire = {}, {}, {}
        for name in ("ours", "official"):
            by_round = list(zip(*(result[name] for result in results), strict=True))  # round, rank, measure
            wall[name] = 1e3 * statistics.median(max(item[0] for item in ranks) for ranks in by_round)
            cpu[name] = 1e3 * statistics.median(statistics.mean(item[1] for item in ranks) for ranks in by_round)
            wire[name] = statistics.median(ranks[0][2] for ranks in by_round) / world_size
        lines.append(
            f"| {world_size} | {wall['ours']:.1f} | {wall['official']:.1f} | {wall['official'] / wall['ours']:.1f}"
            f" | {cpu['ours']:.1f} | {cpu['official']:.1f} | {mb(wire['ours'])} | {mb(wire['official'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Count, race, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 permutations and 5 rounds, not 10 and 30")
    quick = parser.parse_args().quick
    steps, rounds = (2, 5) if quick else (10, 30)
    ranks = [2, 4, 8, 16, 32, 64]
    print(
        f"MB (10^6 bytes) that a rank sends, and as many that it receives, in a step; mean of the ranks and {steps} permutations"
    )
    print(f"\nAt {PER_RANK} images a rank:\n")
    print(traffic_table([(world_size, PER_RANK) for world_size in ranks], steps))
    print("\nAt a global batch of 1024:\n")
    print(traffic_table([(world_size, 1024 // world_size) for world_size in ranks], steps))
    print(
        f"\nTime from {PER_RANK} uint8 images a rank to all keys on every rank, normalizing included, encoding not;"
        f" gloo on the loopback,\none thread a rank, {platform.machine()}, {os.cpu_count()} cores; medians of {rounds} alternating rounds,"
        " the slowest rank's time.\nBoth gave the same keys in every round, to the bit.\n"
    )
    print(time_table([2, 4], rounds))


if __name__ == "__main__":
    main()
