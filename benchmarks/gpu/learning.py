"""Part 6: the real worker learns, stops when asked, resumes, and ends as an unbroken run does."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import yaml

from benchmarks.gpu.chip import Chip
from benchmarks.gpu.pictures import patterns, write
from benchmarks.gpu.record import Record
from benchmarks.gpu.versions import ROOT
from benchmarks.scaling_model import preset
from moco.cluster.machine import Machine
from moco.config import Pretrain
from moco.cores import cores
from moco.errors import Interrupted
from moco.processes import Processes
from moco.runs.checkpoints import newest_step
from moco.runs.curves import read_rows
from moco.runs.job import Job, write_job
from moco.training.run import Run
from moco.training.setup import build, specification

CLASSES = [f"pattern {number}" for number in range(8)]


def recipe(epochs: int) -> Pretrain:
    """Give the small preset, shorter still, with views that hide colors.

    They leave the pattern alone to tell images apart by, which is what a class has in common.
    """
    small = preset("small")
    hiding = {"jitter_p": 1.0, "brightness": 0.8, "saturation": 0.8, "hue": 0.5, "grayscale_p": 0.5}
    update = {
        "image_size": 20,
        "global_batch": 32,
        "bn_group_size": 16,
        "lr_per_256": 0.3,
        "epochs": epochs,
        "log_every_steps": 2,
        "knn_every_epochs": epochs,
        "views": small.views.model_copy(update=hiding),
        "dictionary": small.dictionary.model_copy(update={"num_keys": 256, "start": "random"}),
    }
    return small.model_copy(update=update)


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start the worker of a run's folder, in the project folder that holds it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (folder / "said.txt").open("a") as said:
        command = [sys.executable, "-m", "moco.worker", str(folder)]
        return subprocess.Popen(
            command, cwd=folder.parent, env=environment, text=True, stdout=said, stderr=subprocess.STDOUT
        )


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Read a run's curve of the loss."""
    return read_rows(folder / "curves.csv")


def last_loss(folder: Path) -> float:
    """Average the last quarter of a run's losses."""
    losses = [float(row["loss"]) for row in rows_of(folder)]
    return mean(losses[-max(1, len(losses) // 4) :])


def knn(folder: Path) -> float:
    """Read the last kNN accuracy of a run."""
    return float(read_rows(folder / "readings.csv")[-1]["knn_top1"])


def untrained_knn(settings: Pretrain, shards: Path, machine: Machine, chip: Chip) -> float:
    """Measure the kNN accuracy of the encoder that the runs begin with."""
    run = Run.of(settings, shards, shards.parent, machine)
    model = build(settings, len(run.images)).to(chip.device)
    spec, alone = specification(settings, model, run.name), Processes(0, 1, chip.device)
    reading = run.monitor.read(model.encoder_q.backbone, spec, alone, machine.workers())
    return reading.knn_top1 or math.nan


def learning(record: Record, chip: Chip, scratch: Path) -> None:
    """Train a run unbroken and one that is stopped and resumes, and compare their ends."""
    settings = recipe(6 if chip.gpu else 3)
    shards = write(scratch / "shards", {"train": 512, "val": 512}, patterns(32, CLASSES), CLASSES)
    machine = Machine(device="cuda" if chip.gpu else "cpu", processes=1, num_workers=min(4, max(1, cores() // 3)))
    values = machine.model_dump(include={"device", "processes", "num_workers"})
    (scratch / "machine.yaml").write_text(yaml.safe_dump(values))
    folders = {name: scratch / name for name in ("unbroken", "stopped")}
    for folder in folders.values():
        write_job(folder, Job(settings, str(shards)))
    unbroken, stopped = folders["unbroken"], folders["stopped"]
    running = {name: start(folder) for name, folder in folders.items()}
    while len(rows_of(stopped)) < 3 and running["stopped"].poll() is None:
        time.sleep(0.02)
    told = time.monotonic()
    running["stopped"].send_signal(signal.SIGTERM)
    code = running["stopped"].wait()
    record.add("seconds from SIGTERM to the end", time.monotonic() - told)
    record.require("a run that is told to stop ends as interrupted", code == Interrupted.exit_code)
    total = Run.of(settings, shards, scratch, machine).total
    record.add("stopped at step", newest_step(stopped))
    record.require("a checkpoint was saved before the end", 0 < newest_step(stopped) < total)
    resumed = start(stopped)
    before = untrained_knn(settings, shards, machine, chip)
    codes = [running["unbroken"].wait(), resumed.wait()]
    if any(codes):
        for folder in folders.values():
            print(f"{folder.name}:", *(folder / "said.txt").read_text().splitlines()[-5:], sep="\n", flush=True)
    record.require("both runs end well", codes == [0, 0])
    said = (unbroken / "said.txt").read_text().splitlines()
    record.add("said at start", [line for line in said if line.startswith("pretrain: ")][:4])
    steps = [[row["step"] for row in rows_of(folder)] for folder in folders.values()]
    record.require("both curves have the same steps", steps[0] == steps[1])
    record.add("steps", total)
    record.add("loss at the end", last_loss(unbroken))
    record.check("loss at the end, relative distance", abs(last_loss(stopped) / last_loss(unbroken) - 1), 0.05)
    record.add("kNN top-1, untrained", before)
    for name, folder in folders.items():
        record.add(f"kNN top-1, {name}", knn(folder))
        record.require(f"kNN above that of the untrained encoder, {name}", knn(folder) > before + 0.02)
