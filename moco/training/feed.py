"""Where a run's views are painted, and whether that keeps its training busy."""

import copy
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from moco.errors import MocoError
from moco.images import fused_views, gpu_batches, loader
from moco.images.batches import ViewBatches
from moco.processes import Processes

PLAIN, COMPILED, ON_GPU = "opencv-numba", "compiled", "gpu"
"""What paints the views: plain libraries, `moco.images.fused_views`, `moco.images.gpu_views`."""
SAMPLE = 16
"""Images whose views are timed on a core."""


@dataclass(frozen=True)
class Rates:
    """What a short measurement found for one process, images a second.

    Attributes:
        fed: the loader's cores together prepare.
        trained: the device trains.
        painted: the device decodes and paints; 0: it cannot.
    """

    fed: float
    trained: float
    painted: float

    @property
    def gpu_pays(self) -> bool:
        """Whether a GPU that also paints is faster than one that waits for the loader."""
        both = 1 / (1 / self.trained + 1 / self.painted) if self.painted else 0.0
        return both > min(self.fed, self.trained)

    def __str__(self) -> str:
        slower = "the loader is the slower side" if self.fed < self.trained else "training is the slower side"
        advice = "; views: gpu in machine.yaml is faster" if self.gpu_pays else ""
        return (
            f"a short measurement for each process: {self.fed:.0f} images/s prepared, {self.trained:.0f} images/s trained;"
            f" {slower}{advice}"
        )


def view_backend(
    before: str | None, wanted: Literal["auto", "cpu", "gpu"], processes: Processes, gpu_pays: Callable[[], bool]
) -> str:
    """Choose the view backend: the same on every process and, if possible, as before the stop.

    Two backends round differently, so that single pixels of their views differ by a level or two,
    and more between a CPU and a GPU.

    Args:
        before: of the checkpoint; None: there is none.
        wanted: `views` of machine.yaml.
        processes: this process and its peers.
        gpu_pays: measures whether a GPU had better paint; the first process alone calls it.

    Raises:
        MocoError: the GPU is wanted and some process has none that decodes JPEGs.
    """
    on_cpu = COMPILED if all(processes.gather_objects(fused_views.available())) else PLAIN
    on_gpu = wanted != "cpu" and all(processes.gather_objects(gpu_batches.available(processes.device)))
    if wanted == "gpu" and not on_gpu:
        raise MocoError(
            "machine.yaml: views = gpu needs a CUDA GPU and torchvision built with nvJPEG on every host; set views: cpu"
        )
    if wanted == "gpu":
        backend = ON_GPU
    elif before in (PLAIN, on_cpu) or (before == ON_GPU and on_gpu):
        backend = before
    else:
        paint = on_gpu and processes.gather_objects(processes.first and gpu_pays())[0]
        backend = ON_GPU if paint else on_cpu
    if before not in (None, backend) and processes.first:
        print(
            f"pretrain: the checkpoint's views were {before}, which machine.yaml or some host leaves out; from here on they"
            f" are {backend}, and pixels differ",
            flush=True,
        )
    return backend


def batches(
    backend: str, views: ViewBatches, first: int, last: int, num_workers: int, device: torch.device
) -> Generator[Tensor]:
    """Yield the batches of steps first to last - 1 as `moco.images.loader.steps` does."""
    if backend == ON_GPU:
        return gpu_batches.steps(views, first, last, device)
    return loader.steps(views, first, last, num_workers, device)


def measure(
    views: ViewBatches, step: int, num_workers: int, encoder_q: nn.Module, images: int, autocast: torch.autocast
) -> Rates:
    """Measure both sides for a second or two.

    Args:
        views: painted by the CPU.
        step: whose images are painted.
        num_workers: loader processes.
        encoder_q: the query encoder; a copy of it works.
        images: encoded together.
        autocast: the precision.
    """
    device = next(encoder_q.parameters()).device
    painted = 0.0
    if gpu_batches.available(device):
        with closing(gpu_batches.steps(views, step, step + 3, device)) as made:
            painted = views.count / min(_seconds(lambda: next(made), device) for _ in range(3))
    fed = max(1, num_workers) * views_per_second(views, step)
    return Rates(fed, trained_per_second(encoder_q, images, views.size, autocast), painted)


def views_per_second(views: ViewBatches, step: int) -> float:
    """Measure how many images' views one core makes in a second."""
    count = min(SAMPLE, views.count)
    batch = np.empty((views.per_image, views.count, views.size, views.size, 3), np.uint8)
    views.fill(step, slice(0, 1), batch)  # compiles and opens what is compiled and opened once
    return count / _seconds(lambda: views.fill(step, slice(0, count), batch), torch.device("cpu"))


def trained_per_second(encoder_q: nn.Module, images: int, size: int, autocast: torch.autocast) -> float:
    """Measure how many images a second a device trains, the keys' forward pass included."""
    encoder, device = copy.deepcopy(encoder_q), next(encoder_q.parameters()).device
    zeros = torch.zeros(images, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def train() -> None:
        with autocast:
            encoder(zeros).sum().backward()
            with torch.no_grad():
                encoder(zeros)

    return images / min(_seconds(train, device) for _ in range(3))  # the first chooses kernels


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
