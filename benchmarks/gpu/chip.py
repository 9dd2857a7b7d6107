"""The device under proof: each call of torch.cuda once, and what stands in for it on a CPU."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from moco.devices import compute_devices

CYCLES = 2_000_000
"""Clock cycles of a GPU in a millisecond, about."""
STEP = "step of the proof"


@dataclass(frozen=True)
class Chip:
    """A GPU, or the CPU of a dry run.

    Attributes:
        device: as torch names it.
    """

    device: torch.device

    @classmethod
    def of(cls, kind: str) -> "Chip":
        """Take the first device of a kind, "cuda" or "cpu".

        Raises:
            MocoError: there is no GPU that torch can use.
        """
        chip = cls(compute_devices(kind)[0])
        if chip.gpu:
            torch.cuda.set_device(chip.device)
        return chip

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU, and no dry run."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until all is computed."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def sleep(self, milliseconds: float) -> None:
        """Keep a GPU busy, so that what is computed next begins late."""
        if self.gpu:
            torch.cuda._sleep(int(milliseconds * CYCLES))

    @contextmanager
    def host_may_not_wait(self) -> Iterator[None]:
        """Make every operation at which the host would wait for the GPU an error."""
        if self.gpu:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if self.gpu:
                torch.cuda.set_sync_debug_mode("default")

    @contextmanager
    def norms_at_once(self) -> Iterator[None]:
        """Let batch norms take all groups at once in a dry run too, as they do on a GPU."""
        if self.gpu:
            yield
            return
        with mock.patch.object(torch.compiler, "is_compiling", lambda: True):
            yield

    def milliseconds(self, work: Callable[[], Any], rounds: int, warm_up: int = 3) -> float:
        """Time some work: the median of rounds one after the other, by the GPU's own clock."""
        for _ in range(warm_up):
            work()
        self.wait()
        stamps = [self._stamp()]
        for _ in range(rounds):
            work()
            stamps.append(self._stamp())
        self.wait()
        times = (a.elapsed_time(b) if self.gpu else 1e3 * (b - a) for a, b in pairwise(stamps))
        return statistics.median(times)

    def _stamp(self) -> Any:
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def compile(self, module: nn.Module) -> None:
        """Let torch compile a module; a dry run only traces it, which takes seconds."""
        module.compile(backend="inductor" if self.gpu else "eager")

    def captured(self, work: Callable[[], Any], warm_up: int = 3) -> Callable[[], Any]:
        """Capture some work as a CUDA graph, and give what repeats it.

        Args:
            work: computes on the same memory at each call.
            warm_up: calls before the capture.

        Raises:
            RuntimeError: it cannot be captured.
        """
        if not self.gpu:
            for _ in range(warm_up):
                work()
            return work
        beside = torch.cuda.Stream(self.device)
        beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(beside):
            for _ in range(warm_up):
                work()
        torch.cuda.current_stream(self.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def traced(self, work: Callable[[], Any]) -> "Trace":
        """Profile one call of some work."""
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.gpu
        with profile(activities=activities, acc_events=True) as profiler:
            with record_function(STEP):
                work()
            self.wait()
        return Trace(list(profiler.events()), self.gpu)

    def free(self) -> None:
        """Give memory back, so that the next measurement begins as the first did."""
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> tuple[float, float]:
        """GiB that tensors took at most, and that were reserved for them, since `free`."""
        if not self.gpu:
            return 0.0, 0.0
        most = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
        return most[0] / 2**30, most[1] / 2**30


@dataclass(frozen=True)
class Trace:
    """What the profiler saw of one step; on a CPU an operation counts as a kernel.

    Attributes:
        events: the profiler's.
        gpu: whether a GPU computed.
    """

    events: list[Any]
    gpu: bool

    @property
    def kernels(self) -> list[Any]:
        """The kernels in order, without copies and fills of memory."""
        if not self.gpu:
            return [event for event in self.events if event.name.startswith("aten::")]
        on_gpu = (event for event in self.events if event.device_type == DeviceType.CUDA)
        return [event for event in on_gpu if not event.name.startswith(("Memcpy", "Memset", STEP))]

    @property
    def before_first(self) -> float:
        """Host milliseconds from the step's begin to the launch of its first kernel."""
        begin = min(event.time_range.start for event in self.events if event.name == STEP)
        launch = "LaunchKernel" if self.gpu else "aten::"
        first = min(e.time_range.start for e in self.events if launch in e.name and e.time_range.start >= begin)
        return float(first - begin) / 1e3

    def top(self, count: int) -> dict[str, str]:
        """Name the kernels that took longest: their share of all kernels' time, and how many."""
        spent: dict[str, list[float]] = {}
        for kernel in self.kernels:
            seconds = kernel.time_range.elapsed_us() if self.gpu else kernel.self_cpu_time_total
            spent.setdefault(kernel.name, []).append(seconds)
        total = sum(map(sum, spent.values()))
        longest = sorted(spent.items(), key=lambda item: -sum(item[1]))[:count]
        return {name[:100]: f"{sum(each) / total:.1%}, {len(each)} times" for name, each in longest}
