"""Measure side by side: interleaved rounds, medians of wall and CPU time, and the results file."""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import page

RESULTS = Path(__file__).parent / "results.json"
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pillow",
    "webdataset",
    "lightly",
    "nvidia-dali-cuda130",
    "ffcv",
    "simplejpeg",
    "spdl",
    "litdata",
    "mosaicml-streaming",
    "pycocotools",
    "faster-coco-eval",
    "torchmetrics",
)
Side = Callable[[], int | tuple[int, float, float]]
"""Does a round's work and returns how many units of it (images, steps, …) it did; with the seconds
on the clock and the CPU seconds, where only a part of the call counts."""


@dataclass(frozen=True)
class Cost:
    """Medians over the rounds.

    Attributes:
        wall: seconds a unit on the clock.
        cpu: seconds a unit that this process and its children computed.
        least: seconds a unit of the fastest round, for limits.
    """

    wall: float
    cpu: float
    least: float


@dataclass
class Row:
    """One line of a table: ours beside one peer.

    Attributes:
        table: heading of the table it belongs to.
        name: what is measured.
        unit: of `ours`, `peer` and `limit`; "/s" at its end, or "%" at its beginning, says that
            more is better.
        ours: None where it was not run.
        peer_name: the peer that ours is compared with; "" for none.
        at_least: the ratio to be reached, how many times better than the peer.
        at_most: the value that ours may have.
        limit: what no program could pass on this machine.
        limit_name: what the limit is.
        note: one sentence on what differs between the sides.
        not_run: why there are no numbers.
    """

    table: str
    name: str
    unit: str
    ours: float | None = None
    peer_name: str = ""
    peer: float | None = None
    ours_cpu: float | None = None
    peer_cpu: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    limit: float | None = None
    limit_name: str = ""
    note: str = ""
    not_run: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the peer; above 1 is faster, or smaller."""
        if not self.ours or not self.peer:
            return None
        more_is_better = self.unit.endswith("/s") or self.unit.startswith("%")
        return self.ours / self.peer if more_is_better else self.peer / self.ours


def interleaved(sides: Mapping[str, Side], rounds: int, warm_up: int = 1) -> dict[str, Cost]:
    """Run every side once a round, in an order that turns round, and take the medians.

    Args:
        sides: each a call that does the same amount of work every time.
        rounds: counted ones.
        warm_up: rounds before them, which fill caches and compile.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            units, wall, cpu = timed(sides[name])
            if number >= warm_up:
                found[name].append((wall / units, cpu / units))
    return {
        name: Cost(
            statistics.median(wall for wall, _ in spent),
            statistics.median(cpu for _, cpu in spent),
            min(wall for wall, _ in spent),
        )
        for name, spent in found.items()
    }


def timed(side: Side) -> tuple[int, float, float]:
    """Units, seconds on the clock and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    done = side()
    if isinstance(done, tuple):
        return done
    return done, time.perf_counter() - wall, cpu_seconds() - cpu


@contextmanager
def apart(make: Callable[..., Mapping[str, Side]], *arguments: Any) -> Iterator[dict[str, Side]]:
    """Make sides in a process of their own, so that its settings neither help nor harm others.

    Args:
        make: called there with the arguments; makes the sides.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments))
    process.start()
    there.close()

    def ask(name: str) -> tuple[int, float, float]:
        here.send(name)
        done: tuple[int, float, float] = here.recv()
        return done

    try:
        yield {name: partial(ask, name) for name in here.recv()}
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, make: Callable[..., Mapping[str, Side]], arguments: tuple[Any, ...]) -> None:
    multiprocessing.set_start_method(None, force=True)  # the sides' own processes begin as they do elsewhere
    sides = make(*arguments)
    connection.send(list(sides))
    with suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(timed(sides[connection.recv()]))


def cpu_seconds() -> float:
    """CPU time of this process and of its children, living (on Linux) and gone."""
    gone, ticks = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            status = Path("/proc", child, "stat")
            if status.exists():
                ticks += sum(map(int, status.read_text().rsplit(")", 1)[1].split()[11:13]))
    return time.process_time() + gone.ru_utime + gone.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def found(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, load before, accelerator, versions."""
    import torch  # takes seconds, which every process of the sharding would pay too

    names = Path("/proc/cpuinfo")
    models = (
        [line for line in names.read_text().splitlines() if line.startswith("model name")] if names.exists() else []
    )
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": models[0].split(": ")[1] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Make the command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds, under three minutes; noisier")
    return parser


def options(doc: str | None) -> argparse.Namespace:
    """Parse the command line of a benchmark that has no options of its own."""
    return parser_of(doc).parse_args()


def save(topic: str, rows: list[Row], proofs: list[str], begun: dict[str, Any], quick: bool) -> None:
    """Replace a topic's block in results.json, write the page again, and print the topic's tables.

    Args:
        topic: name of the module that measured.
        rows: the measurements.
        proofs: sentences on how it was made sure that both sides compute the same.
        begun: what `machine()` said before the first round.
        quick: whether it was the short run.
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[topic] = {
        "date": time.strftime("%Y-%m-%d"),
        "mode": "quick" if quick else "full",
        "machine": begun,
        "proofs": proofs,
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n")
    page.PAGE.write_text(page.render(results))
    print(page.topic_section(topic, results[topic], begun["versions"]))
