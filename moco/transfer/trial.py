"""One trial of a comparison: an initialization, trained by a schedule and tested once."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moco.cluster.machine import Machine, load_machine
from moco.config import settings_hash
from moco.encoders.frozen import EncoderSpec
from moco.encoders.kinds import Network, network_of
from moco.encoders.start import RANDOM, Start, start_from
from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.files import write_bytes, write_json, write_text
from moco.processes import Processes, joined
from moco.runs.folder import FINISHED
from moco.transfer.config import Comparison, comparison_of
from moco.transfer.data.annotations import AnnotatedSet, Detections
from moco.transfer.finetune import FineTune, finetune
from moco.transfer.metrics.segmentation import mean_iou
from moco.transfer.networks.classification import accuracies
from moco.transfer.pictures import detections_sheet, label_maps_sheet
from moco.transfer.predict import detect, segment
from moco.transfer.schedules import BoxSizes, LabelSizes, sizes_of
from moco.transfer.sets import Sets, TrainingSet, average_precisions, hash_of, write_detections
from moco.yaml_files import dump_yaml, read_yaml

JOB, RESULT, PICTURES, QUARANTINE = "transfer.yaml", "result.json", "predictions.png", "quarantine.jsonl"
RESULTS = "results-*.json"
"""Detections in COCO's and LVIS's sets, in the form that evaluation servers take."""
SHOWN = 6
"""Test images in the pictures, the same for every initialization and trial."""
LEAST_SCORE = 0.5
"""Of the detections in the pictures; lower where that would show fewer than there are objects."""


@dataclass(frozen=True)
class Trial:
    """What to train and to test.

    Attributes:
        comparison: data, schedule and sizes.
        weights: what to start from: a folder or file that `moco.encoders.start.start_from` reads,
            or the folder of an untrained encoder, whose weights are drawn by the seed.
        seed: of this trial.
        stem: what a person knows of the first layers of a file's network; None: nothing.
        otherwise: the network of a file that does not tell it.
    """

    comparison: Comparison
    weights: str
    seed: int
    stem: str | None = None
    otherwise: Network | None = None

    def start(self) -> Start:
        """Read or draw the weights it starts from.

        Raises:
            MocoError: they are missing, or cannot be read.
        """
        description = Path(self.weights) / "encoder.json"
        if description.exists():
            spec = json.loads(description.read_text(encoding="utf-8"))
            if spec.get("training_hash") == RANDOM:
                return start_from(RANDOM, EncoderSpec.of(spec).network, self.seed)
        return start_from(self.weights, None, self.seed, self.stem, self.otherwise)


@dataclass(frozen=True)
class Tested:
    """What a test gave.

    Attributes:
        metrics: kind -> figure -> value.
        picture: a PNG of a few predictions; None for classification.
        found: by detectors.
    """

    metrics: dict[str, Any]
    picture: bytes | None = None
    found: Detections | None = None


def name_of(trial: Trial, sets: Sets, start: Start) -> str:
    """Name a trial by all that decides its result: 16 hexadecimal digits."""
    alone = Processes(0, 1, torch.device("cpu"))  # who computes is no part of the name
    run = FineTune(trial.comparison.training, start, sets.train, trial.seed, Path(), Machine(), alone)
    metric = trial.comparison.data.model_dump(include={"format", "eleven_points"})
    return settings_hash(run.name(), hash_of(sets.test), metric)


def run_trial(trial: Trial, sets: Sets, start: Start, folder: Path, machine: Machine, processes: Processes) -> None:
    """Train from the newest checkpoint in the folder, test, and write there what that gave.

    Raises:
        MocoError: as `moco.transfer.finetune.finetune`.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is saved.
    """
    settings = trial.comparison.training
    run = FineTune(settings, start, sets.train, trial.seed, folder / "training", machine, processes)
    model = finetune(run)
    tested = evaluate(trial.comparison, model, sets.test, machine, processes)
    if processes.first:
        if tested.picture is not None:
            write_bytes(folder / PICTURES, tested.picture)
        if tested.found is not None:
            assert isinstance(sets.test, AnnotatedSet)
            write_detections(folder, settings.task, sets.test, tested.found)
        write_json(folder / RESULT, tested.metrics)
        (folder / FINISHED).touch()
    processes.barrier()


def evaluate(
    comparison: Comparison, model: nn.Module, images: TrainingSet, machine: Machine, processes: Processes
) -> Tested:
    """Measure the task on the test images, and draw a few predictions beside ground truth.

    Returns:
        All on the first process; the others get empty metrics for boxes, which are evaluated once.
    """
    settings, workers = comparison.training, machine.workers()
    if isinstance(images, Labelled):
        sizes = sizes_of(settings, LabelSizes)
        return Tested({"label": accuracies(model, images, sizes, processes, workers)})
    shown = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int).tolist()
    if settings.task == "semantic":
        segmented = segment(model, images, processes, workers, shown)
        metrics = {"pixel": mean_iou(segmented.confusion, images.semantic_classes)}
        return Tested(metrics, label_maps_sheet(images, [segmented.label_maps[n] for n in shown], shown))
    found = detect(model, images, sizes_of(settings, BoxSizes), processes, workers)
    if not processes.first:
        return Tested({})
    metrics = average_precisions(comparison.data, settings.task, images, found)
    return Tested(metrics, detections_sheet(images, found, shown, least_score(images, found)), found)


def least_score(images: AnnotatedSet, found: Detections) -> float:
    """Find the score, at most `LEAST_SCORE`, that shows no fewer detections than objects."""
    ranked = np.sort(found.scores)[::-1][: len(images.labels)]
    return min(LEAST_SCORE, float(np.floor(100 * float(ranked[-1])) / 100)) if len(ranked) else LEAST_SCORE


def write_job(folder: Path, trial: Trial) -> None:
    """Write what to do into a folder, for processes that other means start."""
    values = {
        "comparison": trial.comparison.model_dump(mode="json"),
        "weights": trial.weights,
        "seed": trial.seed,
        "stem": trial.stem,
        "otherwise": trial.otherwise and trial.otherwise.model_dump(mode="json"),
    }
    write_text(folder / JOB, dump_yaml(values))


def work(folder: Path) -> None:
    """Do what `write_job` wrote, in this process and its peers; errors as in `run_trial`."""
    path = folder / JOB
    values = read_yaml(path)
    try:
        task, weights, seed = values["comparison"]["training"]["task"], str(values["weights"]), int(values["seed"])
        comparison, otherwise = comparison_of(task, values["comparison"], str(path)), values.get("otherwise")
        trial = Trial(comparison, weights, seed, values.get("stem"), otherwise and network_of(otherwise))
    except (ValueError, KeyError, TypeError) as error:
        raise MocoError(f"{path}: was changed by hand ({error!r}); start the run again") from None
    machine = load_machine()
    with joined(machine.training_device, machine.step_timeout_seconds) as processes:
        run_trial(trial, Sets.of(trial.comparison), trial.start(), folder, machine, processes)
