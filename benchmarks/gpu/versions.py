"""Part 1: what the figures were measured with, and the tests that need a GPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.record import Record
from benchmarks.measure import machine
from moco.devices import describe
from moco.images import fused_views

ROOT = Path(__file__).parents[2]


def versions(record: Record, chip: Chip, scratch: Path) -> None:
    """Name the machine and its versions, and run the tests marked `gpu`."""
    record.add("machine", machine())
    record.add("device", describe(chip.device))
    record.add("triton", importlib.util.find_spec("triton") is not None)
    record.add("compiled views", fused_views.available())
    if chip.gpu:
        record.add("CUDA", torch.version.cuda)
        record.add("cuDNN", torch.backends.cudnn.version())
        record.add("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
        record.add("compute capability", ".".join(map(str, torch.cuda.get_device_capability(chip.device))))
    if importlib.util.find_spec("pytest") is None:
        record.note("tests marked gpu: pytest is not installed")
        return
    # Only files with the mark: the others import packages that a GPU machine need not have.
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
    record.add("tests marked gpu", last)
    if done.returncode:
        record.failed.append(f"tests marked gpu: {last}")
        print(done.stdout, flush=True)
