"""Pretraining beside lightly's on the same images, accuracy and time: `python -m benchmarks.quality [--quick]`."""

import io
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import moco
from benchmarks.measure import Row, found, machine, parser_of, save, timed
from benchmarks.photographs import KEPT, sharded
from benchmarks.quality_sides import (
    Pictures,
    lightly_model,
    lightly_views,
    lightly_weights,
    our_weights,
    pixels_of,
    training_images,
)
from benchmarks.scaling_model import preset
from benchmarks.step import gradient
from moco.cluster.machine import cores
from moco.config import Fetch, Linear, Pretrain, load_params
from moco.dictionary import Contrast
from moco.encoders import FrozenEncoder, ResNet, normalise
from moco.evaluation.features import Extractor
from moco.evaluation.linear import Evaluation, Labelled, evaluate
from moco.images import fused_views
from moco.images.decode import decode
from moco.images.index import open_split
from moco.images.loader import ViewBatches
from moco.images.plan import EpochPlan
from moco.training.curves import read_rows
from moco.training.job import Job, write_job
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
        """A side's settings: lightly's batch norm is over the whole batch, and its example computes in float32."""
        alike = {} if side == OURS else {"bn_group_size": self.settings.global_batch, "precision": "fp32"}
        return self.settings.model_copy(update={"seed": seed, **alike})


@dataclass(frozen=True)
class Run:
    """What one run of one side came to.

    Attributes:
        wall: seconds from the start of its process to its end, weights on disk.
        cpu: seconds that its processes computed.
        speed: images a second, from the second row of speed.csv on, by when all processes have begun.
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
    """The demo's settings on a part of its images."""
    params = load_params(Path(moco.__file__).parent / "presets/small.yaml")
    settings = {"images_fraction": fraction, "epochs": epochs, "knn_every_epochs": 0}
    shards = sharded(params.fetch, KEPT / "fashion-mnist-split")
    return Case("Fashion-MNIST", shards, params.pretrain.model_copy(update=settings), params.linear, labelled)


def cifar10(folder: Path, fraction: float, epochs: int, labelled: int) -> Case:
    """The same encoder on a copy of CIFAR-10, with the views of the preset for it but for larger crops: epochs are few."""
    small, views = load_params(Path(moco.__file__).parent / "presets/small.yaml"), preset("cifar").views
    fetch = Fetch(source="cifar10", path=str(folder), labels="folders", val_fraction=0.1, test_fraction=0, split_seed=0)  # fmt: skip
    settings = {
        "images_fraction": fraction, "epochs": epochs, "knn_every_epochs": 0, "image_size": 32,
        "views": views.model_copy(update={"crop_scale_min": 0.2}),
    }  # fmt: skip
    shards = sharded(fetch, KEPT / "cifar10-split")
    return Case("CIFAR-10", shards, small.pretrain.model_copy(update=settings), small.linear, labelled)


def decoded(shards: Path) -> NDArray[np.uint8]:
    """All training images of some shards, decoded by Pillow, uint8 N x H x W x 3; kept beside them."""
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
    """The number of loader processes with which lightly's side is fastest on this machine, of one, one a core and one fewer."""
    short = case.settings.model_copy(
        update={"images_fraction": case.settings.images_fraction / 6, "epochs": 3}
    )  # fmt: skip
    found = {}
    for workers in {1, max(1, cores() - 1), cores()}:
        with tempfile.TemporaryDirectory() as folder:
            train(replace(case, settings=short), PEER, 0, workers, Path(folder))
            found[workers] = speed_of(Path(folder))
    print("lightly's images/s by loader processes:", {workers: round(speed) for workers, speed in found.items()}, flush=True)  # fmt: skip
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
    """Images a second over all intervals but the first, from (last step of an interval, images a second in it)."""
    pairs = list(pairwise(rows))
    seconds = sum((step - before) / speed for (before, _), (step, speed) in pairs)
    return (rows[-1][0] - rows[0][0]) / seconds


def scored(case: Case, weights: dict[str, Tensor], settings: Pretrain) -> Evaluation:
    """kNN and linear classification on the test split, by the same functions whoever trained the backbone."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = ResNet(settings.encoder, settings.stem)
    backbone.load_state_dict(weights)
    encoder = FrozenEncoder(backbone.to(device), specification(settings, build(settings, 0), "quality"))
    extractor = Extractor("quality", encoder.embed, "", settings.image_size, settings.eval_crop_ratio)
    train, val, test = (Labelled.of(open_split(case.shards, split)) for split in ("train", "val", "test"))
    train = Labelled(train.images, train.indices[: case.labelled], train.labels[: case.labelled])
    return evaluate(extractor, train, val, test, case.linear)


def same_images(case: Case) -> str:
    """Check that lightly's side is given the pixels that ours decodes, and views of the same distribution.

    Raises:
        AssertionError: it is not.
    """
    settings = case.of(ALIKE, 0)
    images, pixels = training_images(settings, case.shards), decoded(case.shards)
    mine = np.arange(len(pixels)) if images.chosen is None else images.chosen
    for i in range(0, len(images), 10):
        assert np.array_equal(decode(images.read(i)), pixels[mine[i]]), f"image {i} is another one"
    batch = min(2000, len(images))
    plan = EpochPlan(len(images), batch, 0)
    views = ViewBatches(images, plan, settings.views, settings.image_size, compiled=fused_views.available())
    ours = normalise(views[0]).flatten(0, 1)
    theirs = Pictures(pixels[mine[plan.batch(0)]], lightly_views(settings.views, settings.image_size))
    torch.manual_seed(0)
    others = torch.stack([view for i in range(batch) for view in theirs[i]])
    mean, deviation = (float(abs(of(ours) - of(others))) for of in (torch.mean, torch.std))
    assert max(mean, deviation) < 0.05, f"views differ by {mean:.3f} in mean, {deviation:.3f} in deviation"
    return (
        f"{case.name}: every tenth image is the same, pixel by pixel; normalised pixels of the views of {batch:,} images differ by {mean:.3f} in"
        f" their mean and {deviation:.3f} in their deviation"
    )


def same_start(case: Case) -> str:
    """Check that two steps give lightly's loss and gradient, computed in float64.

    Raises:
        AssertionError: it does not.
    """
    settings = case.of(ALIKE, 0)
    images = training_images(settings, case.shards)
    plan = EpochPlan(len(images), settings.global_batch, 0)
    views = ViewBatches(images, plan, settings.views, settings.image_size, compiled=fused_views.available())[
        0
    ]
    query, key = normalise(views).double()
    found = []
    for model in (build(settings, 0).double(), lightly_model(settings).double()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
        for _ in range(
            2
        ):  # the second sees what the first has put into the dictionary, and the moved key encoder
            optimizer.zero_grad()
            made = model(query, key)
            loss = made.loss if isinstance(made, Contrast) else made
            loss.backward()
            optimizer.step()
        found.append((loss.item(), gradient(list(model.parameters()))))
    (ours, mine), (theirs, others) = found
    apart = abs(ours - theirs), float((mine - others).norm() / others.norm())
    assert max(apart) < 1e-9, f"loss differs by {apart[0]:.1e}, gradient by {apart[1]:.1e}"
    return (
        f"{case.name}: two steps from the first weights and keys on the same views, computed in float64: our loss and gradient differ from lightly's by"
        f" {apart[0]:.0e} and {apart[1]:.0e} of its length"
    )


def same_work(case: Case, runs: dict[str, list[Run]]) -> str:
    """Check that all runs did as many steps at the same rates and trained as many numbers.

    Raises:
        AssertionError: one did not.
    """
    first = runs[PEER][0]
    base = max(first.rates.values())
    for side, several in runs.items():
        for run in several:
            assert run.steps == first.steps, f"{side}: {run.steps} steps, not {first.steps}"
            assert run.trained == first.trained, f"{side}: {run.trained} numbers, not {first.trained}"
            assert run.rates.keys() == first.rates.keys(), f"{side}: logs other steps"
            apart = max(abs(rate - first.rates[step]) for step, rate in run.rates.items())
            assert apart < 1e-9 * base, f"{side}: learning rates differ by {apart}"
    return (
        f"{case.name}: {first.steps:,} steps of {case.settings.global_batch} images on each side, {first.trained:,} numbers trained,"
        f" the same learning rate at each of the {len(first.rates)} steps that are logged (ours by its own schedule, lightly's by"
        " torch's)"
    )


def rows(case: Case, runs: dict[str, list[Run]], untrained: Evaluation, workers: int) -> list[Row]:
    """Accuracies and times of both of our settings beside lightly's."""
    settings, seeds = case.settings, len(runs[PEER])
    table = (
        f"{case.name}, {len(training_images(settings, case.shards)):,} images, {settings.epochs} epochs, {settings.encoder} at"
        f" {settings.image_size} px, batch {settings.global_batch}, K {settings.queue_size}; {seeds} {'seed' if seeds == 1 else 'seeds'}"
    )  # fmt: skip
    theirs = runs[PEER]
    found = []
    for side in (OURS, ALIKE):
        mine = runs[side]
        for metric, name in METRICS.items():
            a, b = ([100 * getattr(run, metric) for run in some] for some in (mine, theirs))
            found.append(
                Row(table, f"{side}: {name}", "% top-1", statistics.mean(a), PEER, statistics.mean(b), note=spread(a, b))
            )  # fmt: skip
        found.append(
            Row(
                table, f"{side}: training", "images/s", statistics.median(run.speed for run in mine), PEER,
                statistics.median(run.speed for run in theirs), at_least=1.0,
            )
        )  # fmt: skip
        wall, peer_wall, cpu, peer_cpu = (
            statistics.median(getattr(run, field) for run in some) for field in ("wall", "cpu") for some in (mine, theirs)
        )  # fmt: skip
        found.append(
            Row(
                table, f"{side}: from the command to the weights", "s", wall, PEER, peer_wall, cpu, peer_cpu, at_least=1.0,
                note=f"start-up and checkpoint included; lightly's with {workers} loader {'process' if workers == 1 else 'processes'}",
            )
        )  # fmt: skip
    loss = {side: statistics.mean(run.loss for run in some) for side, some in runs.items()}
    found[-1].note += "; loss at the end: " + ", ".join(f"{side} {value:.3f}" for side, value in loss.items())
    for name, value in (("linear classification", untrained.linear_top1), ("kNN", untrained.knn_top1)):
        found.append(Row(table, f"the first weights, untrained: {name}", "% top-1", 100 * value))
    return found + each_run(f"{case.name}, each run", runs)


def each_run(table: str, runs: dict[str, list[Run]]) -> list[Row]:
    """The accuracies that the means are of."""
    return [
        Row(table, f"seed {seed}, {side}: {name}", "% top-1", 100 * getattr(mine, metric), PEER, 100 * getattr(theirs, metric))
        for side in (OURS, ALIKE)
        for metric, name in METRICS.items()
        for seed, (mine, theirs) in enumerate(zip(runs[side], runs[PEER], strict=True))
    ]  # fmt: skip


def spread(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """How runs of equal seeds differ, in words: deviations between seeds, and the difference with its standard error."""
    apart = [a - b for a, b in zip(mine, theirs, strict=True)]
    if len(apart) == 1:
        return f"ours less lightly's {apart[0]:+.2f} points; one seed"
    error = statistics.stdev(apart) / len(apart) ** 0.5
    return (
        f"± {statistics.stdev(mine):.2f} and ± {statistics.stdev(theirs):.2f} from seed to seed; ours less lightly's"
        f" {statistics.mean(apart):+.2f} ± {error:.2f} points (standard error)"
    )


def measure(case: Case, seeds: int, workers: int) -> tuple[list[Row], list[str]]:
    """Every side once a seed, in an order that turns round.

    Args:
        case: what is learned from.
        seeds: how many.
        workers: loader processes of lightly's side; 0: as many as are best for it.
    """
    proofs = [same_images(case), same_start(case)]
    workers = workers or best_workers(case)
    runs: dict[str, list[Run]] = {side: [] for side in (OURS, ALIKE, PEER)}
    for seed in range(seeds):
        for side in list(runs)[:: -1 if seed % 2 else 1]:
            run = trained_once(case, side, seed, workers)
            runs[side].append(run)
            print(
                f"seed {seed}, {side}: linear {run.linear:.2%}, kNN {run.knn:.2%}, {run.speed:,.0f} images/s, {run.wall:.1f} s, loss {run.loss:.3f}",
                flush=True,
            )
    proofs.append(same_work(case, runs))
    settings = case.of(ALIKE, 0)
    first = build(settings, 0).encoder_q.backbone.state_dict()
    return rows(case, runs, scored(case, first, settings), workers), proofs


def main() -> None:
    """Fashion-MNIST, and CIFAR-10 where there is a copy."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, help="runs of each side (default: 3; 1 if quick)")
    parser.add_argument("--cifar10", type=Path, help="folder that holds cifar-10-batches-py or its archive")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of lightly's side (default: as many as are best for it; if quick, one less than cores)")  # fmt: skip
    arguments = parser.parse_args()
    quick, begun = arguments.quick, machine()
    seeds, size = arguments.seeds or (1 if quick else 3), (0.1, 2, 5_000) if quick else (0.4, 5, 100_000)
    workers = arguments.workers or (max(1, cores() - 1) if quick else 0)
    table: list[Row] = []
    proofs: list[str] = []
    cases = []
    if not found("lightly"):
        table.append(Row("Fashion-MNIST", "accuracy and time", "", peer_name=PEER, not_run="not installed; `make bench` does"))  # fmt: skip
    else:
        cases.append(partial(fashion_mnist, *size))
        if arguments.cifar10:
            cases.append(partial(cifar10, arguments.cifar10, *size))
        else:
            table.append(Row("CIFAR-10", "CIFAR-10, accuracy and time", "", peer_name=PEER, not_run="no copy of it was named; `python -m benchmarks.quality --cifar10 FOLDER`"))  # fmt: skip
    for make in cases:
        more, said = measure(make(), seeds, workers)
        table, proofs = table + more, proofs + said
    save("quality", table, proofs, begun, quick)


if __name__ == "__main__":
    main()
