"""The training step on random images, timed, with the time inside each of its collectives."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.shuffle_bn import on_ranks
from moco.config import Pretrain
from moco.devices import compute_in
from moco.dictionary.protocol import Batch
from moco.dictionary.shuffle_bn import positions_of_slots
from moco.processes import Processes
from moco.runs.agreement import Agreement
from moco.training.loop import accumulate
from moco.training.setup import average_gradients, build, optimizer_of

WARM_UP = 3  # steps

IMAGES, KEYS, GRADIENTS, LATE, WISHES = ("images", "keys", "gradients", "gradients after backward", "wishes")


class Watch:
    """Seconds spent inside each collective, summed over the steps since the last `read`."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._buckets: list[tuple[float, float]] = []

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a call so that it is watched."""

        def watched(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            result = call(*arguments, **options)
            self.spent[name] += time.perf_counter() - begin
            return result

        return watched

    @contextmanager
    def collectives(self) -> Iterator[None]:
        """Watch the two calls that wait: key images to their slots, keys to everyone."""
        with (
            mock.patch.object(dist, "all_to_all_single", self.timed(IMAGES, dist.all_to_all_single)),
            mock.patch.object(dist, "all_gather", self.timed(KEYS, dist.all_gather)),
        ):
            yield

    def gradients(self, processes: Processes, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Average gradients as DistributedDataParallel does, and note when."""
        begin = time.perf_counter()
        summed = dist.all_reduce(
            bucket.buffer().div_(processes.world_size), group=processes.in_step, async_op=True
        ).get_future()

        def arrived(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            self._buckets.append((begin, time.perf_counter()))
            return future.value()[0]

        return summed.then(arrived)

    def read(self) -> dict[str, float]:
        """Seconds since the last reading, buckets that travel side by side counted once."""
        upto = 0.0
        for begin, end in sorted(self._buckets):
            self.spent[GRADIENTS] += max(0.0, end - max(begin, upto))
            upto = max(upto, end)
        if self._buckets:
            self.spent[LATE] = upto - max(begin for begin, _ in self._buckets)
        self._buckets.clear()
        spent, self.spent = dict(self.spent), defaultdict(float)
        return spent


def stepper(settings: Pretrain, processes: Processes, watch: Watch) -> Callable[[int], None]:
    """Return a function that trains one step, on images drawn once."""
    model = build(settings, 0).to(processes.device)
    model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model, settings)
    optimizer.param_groups[0]["lr"] = settings.lr_per_256
    bf16 = compute_in(settings.precision, processes.device) == "bf16"
    autocast = torch.autocast(processes.device.type, torch.bfloat16, enabled=bf16)
    encode_queries = average_gradients(model.encoder_q, settings, processes, autocast)
    exchange = watch.timed(WISHES, Agreement(processes).exchange)
    if isinstance(encode_queries, DistributedDataParallel):
        encode_queries.register_comm_hook(processes, watch.gradients)
    local, side = settings.global_batch // processes.world_size, settings.image_size
    random = torch.Generator().manual_seed(processes.rank)
    drawn = torch.randint(256, (2, local, side, side, 3), dtype=torch.uint8, generator=random)
    images = drawn.permute(0, 1, 4, 2, 3).to(processes.device)

    def train(number: int) -> None:
        positions = positions_of_slots(settings.seed, number, settings.global_batch)
        optimizer.zero_grad()
        accumulate(model, Batch.of(images, positions, positions, number, processes), encode_queries, autocast)
        optimizer.step()
        exchange(False, False)

    return train


def seconds_of_steps(processes: Processes, settings: Pretrain, steps: int) -> list[dict[str, float]]:
    """Seconds of each step and, within it, of each collective."""
    watch = Watch()
    found = []
    with watch.collectives():
        train = stepper(settings, processes, watch)
        for number in range(WARM_UP + steps):
            if number == WARM_UP:
                processes.barrier()
            watch.read()
            begin = time.perf_counter()
            train(number)
            whole = time.perf_counter() - begin
            found.append({"step": whole} | watch.read())
    return found[WARM_UP:]


def median_step(results: list[list[dict[str, float]]]) -> dict[str, float]:
    """Give medians over the steps: the slowest process's step, the mean of its collectives."""
    by_step = list(zip(*results, strict=True))
    names = {name for ranks in by_step for item in ranks for name in item}
    middle = {
        name: statistics.median(statistics.mean(item.get(name, 0.0) for item in ranks) for ranks in by_step)
        for name in names
    }
    return middle | {"step": statistics.median(max(item["step"] for item in ranks) for ranks in by_step)}


def alternating(
    cases: dict[str, tuple[int, Callable[..., Any], Pretrain]], rounds: int, steps: int
) -> dict[str, dict[str, float]]:
    """Medians of each case's steps, the cases taking turns.

    Args:
        cases: number of processes, what each of them runs, and its settings.
    """
    results: dict[str, list[list[dict[str, float]]]] = {
        name: [[] for _ in range(case[0])] for name, case in cases.items()
    }
    for number in range(rounds):
        for name in sorted(cases, reverse=bool(number % 2)):
            world_size, function, settings = cases[name]
            for steps_of_rank, found in zip(
                results[name], on_ranks(world_size, function, settings, steps), strict=True
            ):
                steps_of_rank += found
    return {name: median_step(result) for name, result in results.items()}


def seconds_side_by_side(processes: Processes, settings: Pretrain, steps: int) -> list[dict[str, float]]:
    """Time the steps of a process that trains alone while its neighbors do the same."""
    return seconds_of_steps(Processes(0, 1, processes.device), settings, steps)
