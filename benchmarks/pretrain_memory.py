"""Peak memory of pretraining as the images grow tenfold: `python -m benchmarks.pretrain_memory [--quick]`."""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from benchmarks.sharding import SHARD, fetched, small_images
from moco.cluster.machine import Machine
from moco.config import load_params
from moco.cores import cores
from moco.files import readable
from moco.images.index import open_split
from moco.processes import Processes
from moco.runs.curves import read_rows
from moco.shards.write import write_shards
from moco.training.loop import pretrain
from moco.training.monitor import Monitor
from moco.training.run import Run

STEPS = 20


def train(shards: Path, runs: Path) -> None:
    """So many steps with the project's own settings; prints the peak of this process and of its loader, in kB."""
    images, val = open_split(shards, "train"), open_split(shards, "val")
    settings = load_params().pretrain.model_copy(update={"epochs": 1, "knn_every_epochs": 0, "log_every_steps": STEPS})
    machine = Machine(num_workers=1, device="cpu")

    def end() -> None:
        while not read_rows(runs / "curves.csv"):  # a row every STEPS steps
            time.sleep(0.2)
        print(f"\npeak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", flush=True)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    processes = Processes(0, 1, torch.device("cpu"))
    pretrain(Run(settings, images, Monitor(images, val, 0), "memory", runs, machine), processes)


def peak(images: Path, scratch: Path) -> int:
    """Peak resident bytes of a training process on a folder of images."""
    raw, shards = scratch / f"{images.name}-raw", scratch / f"{images.name}-shards"
    fetched(images, raw)
    write_shards(raw, shards, scratch / "runs", SHARD, cores())
    command = [sys.executable, "-m", "benchmarks.pretrain_memory", "--train", str(shards), str(scratch / images.name)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return 1024 * int(done.stdout.rsplit("peak ", 1)[1].split()[0])


def main() -> None:
    """Make the images, train on both, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a third of the images")
    parser.add_argument("--train", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(*options.train)
        return
    count = 6_000 if not options.quick else 5_000
    few, many = count, (10 if not options.quick else 4) * count
    with tempfile.TemporaryDirectory(dir=".", prefix=".memory-") as name:
        scratch = Path(name)
        peaks = []
        for label, images in (("few", few), ("many", many)):
            small_images(scratch / label, images)
            peaks.append(peak(scratch / label, scratch))
    print(f"| peak memory of pretraining | {few} images | {many} images | ratio |")
    print("|---|---|---|---|")
    print(f"| training process | {readable(peaks[0])} | {readable(peaks[1])} | {peaks[1] / peaks[0]:.3f} |")


if __name__ == "__main__":
    main()
