"""Train and score the two sides of the comparison of whole runs."""

import io
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.measure import timed
from benchmarks.photographs import KEPT, sharded
from benchmarks.quality_sides import lightly_weights, our_weights, pixels_of
from benchmarks.scaling_model import preset
from moco.config import Fetch, Linear, Pretrain, load_params
from moco.cores import cores
from moco.encoders.build import build_encoder
from moco.encoders.frozen import FrozenEncoder
from moco.evaluation.linear import Evaluation, evaluate
from moco.features.extract import Extractor, Labelled
from moco.images.index import open_split
from moco.runs.curves import read_rows
from moco.runs.job import Job, write_job
from moco.training.setup import build, specification

OURS, ALIKE, PEER = "ours", "ours, batch norm and precision as lightly's", "lightly"
METRICS = {"linear": "linear classification", "knn": "kNN"}


@dataclass(frozen=True)
class Case:
    """One data set and how it is learned from.

    Attributes:
        name: of the data set.
        shards: its folder.
        settings: of our run.
        linear: how features are scored, on both sides.
        labelled: training images that the scoring may use.
    """

    name: str
    shards: Path
    settings: Pretrain
    linear: Linear
    labelled: int

    def of(self, side: str, seed: int) -> Pretrain:
        """Give a side's settings: lightly's norms see the whole batch, its example is float32."""
        alike = {} if side == OURS else {"bn_group_size": self.settings.global_batch, "precision": "fp32"}
        return self.settings.model_copy(update={"seed": seed, **alike})


@dataclass(frozen=True)
class Run:
    """What one run of one side came to.

    Attributes:
        wall: seconds from the start of its process to its end, weights on disk.
        cpu: seconds that its processes computed.
        speed: images a second, from the second row of speed.csv on, by when all processes have
            begun.
        steps: done.
        trained: numbers that it trained.
        rates: learning rate of the steps that it logged.
        loss: mean over the last rows of the curve, a tenth of the run.
        knn: top-1 accuracy on the test split, a fraction of 1.
        linear: likewise.
    """

    wall: float
    cpu: float
    speed: float
    steps: int
    trained: int
    rates: dict[int, float]
    loss: float
    knn: float
    linear: float


def fashion_mnist(fraction: float, epochs: int, labelled: int) -> Case:
    """Give the demo's settings on a part of its images."""
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    settings = {"images_fraction": fraction, "epochs": epochs, "knn_every_epochs": 0}
    shards = sharded(params.fetch, KEPT / "fashion-mnist-split")
    return Case("Fashion-MNIST", shards, params.pretrain.model_copy(update=settings), params.linear, labelled)


def cifar10(folder: Path, fraction: float, epochs: int, labelled: int) -> Case:
    """Give the same encoder on CIFAR-10, with its preset's views but larger crops."""
    small, views = load_params(Path(__file__).parents[1] / "params.yaml"), preset("cifar").views
    fetch = Fetch(source="cifar10", path=str(folder), labels="folders", val_fraction=0.1, test_fraction=0, split_seed=0)
    settings = {
        "images_fraction": fraction,
        "epochs": epochs,
        "knn_every_epochs": 0,
        "image_size": 32,
        "views": views.model_copy(update={"crop_scale_min": 0.2}),
    }
    shards = sharded(fetch, KEPT / "cifar10-split")
    return Case("CIFAR-10", shards, small.pretrain.model_copy(update=settings), small.linear, labelled)


def decoded(shards: Path) -> NDArray[np.uint8]:
    """Decode all training images by Pillow, uint8 N x H x W x 3, kept beside the shards."""
    path = pixels_of(shards)
    if not path.exists():
        images = open_split(shards, "train")
        encoded = (io.BytesIO(images.read(i)) for i in range(len(images)))
        with path.with_suffix(".part").open("wb") as part:
            np.save(part, np.stack([np.asarray(Image.open(one).convert("RGB")) for one in encoded]))
        path.with_suffix(".part").rename(path)
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def train(case: Case, side: str, seed: int, workers: int, folder: Path) -> tuple[float, float]:
    """Train one side in processes of its own; wall and CPU seconds of them all.

    Raises:
        CalledProcessError: it failed; what it said is on stderr.
    """
    write_job(folder, Job(case.of(side, seed), str(case.shards.resolve())))
    # torch's own number of threads, as without this variable
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    module, which = "benchmarks.quality_sides", "lightly" if side == PEER else "ours"

    def run() -> int:
        command = [sys.executable, "-m", module, which, str(folder), str(workers)]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return 1

    _, wall, cpu = timed(run)
    return wall, cpu


def best_workers(case: Case) -> int:
    """Find the number of loader processes with which lightly's side is fastest here.

    Tried are one, one a core and one fewer.
    """
    short = case.settings.model_copy(update={"images_fraction": case.settings.images_fraction / 6, "epochs": 3})
    found = {}
    for workers in {1, max(1, cores() - 1), cores()}:
        with tempfile.TemporaryDirectory() as folder:
            train(replace(case, settings=short), PEER, 0, workers, Path(folder))
            found[workers] = speed_of(Path(folder))
    print(
        "lightly's images/s by loader processes:",
        {workers: round(speed) for workers, speed in found.items()},
        flush=True,
    )
    return max(found, key=found.__getitem__)


def trained_once(case: Case, side: str, seed: int, workers: int) -> Run:
    """Train one side, and score its features."""
    settings = case.of(side, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall, cpu = train(case, side, seed, workers, folder)
        weights, trained, steps = lightly_weights(folder) if side == PEER else our_weights(folder)
        curve, speed = read_rows(folder / "curves.csv"), speed_of(folder)
    score = scored(case, weights, settings)
    rates = {int(row["step"]): float(row["learning_rate"]) for row in curve}
    loss = statistics.mean(float(row["loss"]) for row in curve[-max(1, len(curve) // 10) :])
    return Run(wall, cpu, speed, steps, trained, rates, loss, score.knn_top1, score.linear_top1)


def speed_of(folder: Path) -> float:
    """Images a second of a run, start-up left out."""
    rows = read_rows(folder / "speed.csv")
    return steady_speed([(int(row["step"]), float(row["images_per_second"])) for row in rows])


def steady_speed(rows: Sequence[tuple[int, float]]) -> float:
    """Give images a second over all intervals but the first, from (last step, images a second)."""
    pairs = list(pairwise(rows))
    seconds = sum((step - before) / speed for (before, _), (step, speed) in pairs)
    return (rows[-1][0] - rows[0][0]) / seconds


def scored(case: Case, weights: dict[str, Tensor], settings: Pretrain) -> Evaluation:
    """Score kNN and linear classification on the test split, alike for both sides."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = build_encoder(settings.encoder)
    backbone.load_state_dict(weights)
    encoder = FrozenEncoder(backbone.to(device), specification(settings, build(settings, 0), "quality"))
    extractor = Extractor("quality", encoder.embed, "", settings.image_size, settings.eval_crop_ratio)
    train, val, test = (Labelled.of(open_split(case.shards, split)) for split in ("train", "val", "test"))
    train = Labelled(train.images, train.indices[: case.labelled], train.labels[: case.labelled])
    return evaluate(extractor, train, val, test, case.linear)
