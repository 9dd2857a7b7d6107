"""One trial of a comparison: an initialization, trained by a schedule and tested once."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from moco.cluster.machine import Machine, load_machine
from moco.config import settings_hash
from moco.errors import MocoError
from moco.features.extract import Labelled
from moco.processes import Processes, join, leave
from moco.runs.folder import FINISHED
from moco.settings import read_yaml
from moco.transfer.data.annotations import AnnotatedSet, Detections, data_hash
from moco.transfer.finetune import FineTune, finetune
from moco.transfer.metrics.segmentation import mean_iou
from moco.transfer.networks.classification import accuracies
from moco.transfer.networks.initialization import RANDOM, Backbone, backbone
from moco.transfer.params import Comparison
from moco.transfer.pictures import detections_sheet, label_maps_sheet
from moco.transfer.predict import detect, segment
from moco.transfer.schedules import BoxSizes, LabelSizes
from moco.transfer.sets import average_precisions, open_data
from moco.transfer.settings import sizes_of
from moco.transfer.tasks import TrainingSet

JOB, RESULT, PICTURES, QUARANTINE = "transfer.yaml", "result.json", "predictions.png", "quarantine.jsonl"
SHOWN = 6
"""Test images in the pictures, the same for every initialization and trial."""
LEAST_SCORE = 0.5
"""Of the detections in the pictures; lower where that shows fewer than there are objects."""


@dataclass(frozen=True)
class Trial:
    """What to train and to test.

    Attributes:
        comparison: data, schedule and sizes.
        weights: what to start from: a folder or file that `moco.transfer.networks.initialization.backbone` reads, or the
            folder of an untrained encoder, whose weights are drawn anew.
        seed: of this trial.
    """

    comparison: Comparison
    weights: str
    seed: int

    def backbone(self) -> Backbone:
        """The weights it starts from.

        Raises:
            MocoError: there are none, or they cannot be read.
        """
        description = Path(self.weights) / "encoder.json"
        if description.exists():
            spec = json.loads(description.read_text(encoding="utf-8"))
            if spec.get("training_hash") == RANDOM:
                return backbone(RANDOM, spec["architecture"], spec["stem"], self.seed)
        return backbone(self.weights, None, None, self.seed)


@dataclass(frozen=True)
class Sets:
    """Training and test images of a comparison."""

    train: TrainingSet
    test: TrainingSet

    @classmethod
    def of(cls, comparison: Comparison, quarantine: Path | None = None) -> "Sets":
        """Read both; errors as in `open_data`."""
        data, task = comparison.data, comparison.training.task
        train = open_data(data, task, "train", quarantine)
        classes = train.classes if isinstance(train, AnnotatedSet) else None
        sets = cls(train, open_data(data, task, "test", classes=classes))
        if sets.classes_of(train) != sets.classes_of(sets.test):
            raise MocoError(
                f"{data.path}: {data.train[0]} and {data.test[0]} have other classes ({len(sets.classes_of(train))} and"
                f" {len(sets.classes_of(sets.test))}); name sets with the same ones, in the same order"
            )
        return sets

    @staticmethod
    def classes_of(images: TrainingSet) -> list[str]:
        """What is told apart in a set."""
        if isinstance(images, Labelled):
            return images.images.classes
        return images.semantic_classes if images.label_maps is not None else images.classes

    def hash_of_test(self) -> str:
        """Changes with the test images' annotations."""
        if isinstance(self.test, Labelled):
            return f"{self.test.images.data_hash} {self.test.images.split}"
        return data_hash(self.test)


def name_of(trial: Trial, sets: Sets, initial: Backbone) -> str:
    """Names a trial by all that decides its result: 16 hexadecimal digits."""
    alone = Processes(0, 1, torch.device("cpu"))  # who computes is no part of the name
    run = FineTune(trial.comparison.training, initial, sets.train, trial.seed, Path(), Machine(), alone)
    return settings_hash(run.name(), sets.hash_of_test(), trial.comparison.data.eleven_points)


def run_trial(
    trial: Trial, sets: Sets, initial: Backbone, folder: Path, machine: Machine, processes: Processes
) -> None:
    """Train from the newest checkpoint in the folder, test, and leave the result and pictures in the folder.

    Raises:
        MocoError: as `moco.transfer.finetune.finetune`.
        Interrupted: told to stop; a checkpoint is saved.
    """
    settings = trial.comparison.training
    run = FineTune(settings, initial, sets.train, trial.seed, folder / "training", machine, processes)
    model = finetune(run)
    metrics, picture = evaluate(trial.comparison, model, sets.test, machine, processes)
    if processes.first:
        if picture is not None:
            (folder / PICTURES).write_bytes(picture)
        part = folder / f"{RESULT}.part"
        part.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        part.replace(folder / RESULT)
        (folder / FINISHED).touch()
    processes.barrier()


def evaluate(
    comparison: Comparison, model: nn.Module, images: TrainingSet, machine: Machine, processes: Processes
) -> tuple[dict[str, Any], bytes | None]:
    """The task's metrics on the test images, and a few predictions beside ground truth as a PNG.

    Returns:
        On the first process; the others get empty metrics, for evaluation of boxes is done once.
    """
    settings, workers = comparison.training, machine.workers()
    if isinstance(images, Labelled):
        sizes = sizes_of(settings, LabelSizes)
        return {"label": accuracies(model, images, sizes, processes, workers)}, None
    shown = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int).tolist()
    if settings.task == "semantic":
        segmented = segment(model, images, processes, workers, shown)
        metrics = {"pixel": mean_iou(segmented.confusion, images.semantic_classes)}
        return metrics, label_maps_sheet(images, [segmented.label_maps[n] for n in shown], shown)
    found = detect(model, images, sizes_of(settings, BoxSizes), processes, workers)
    if not processes.first:
        return {}, None
    metrics = average_precisions(comparison.data, settings.task, images, found)
    return metrics, detections_sheet(images, found, shown, least_score(images, found))


def least_score(images: AnnotatedSet, found: Detections) -> float:
    """The score from which on as many objects are detected as there are, rounded down to hundredths; at most `LEAST_SCORE`."""
    ranked = np.sort(found.scores)[::-1][: len(images.labels)]
    return min(LEAST_SCORE, float(np.floor(100 * float(ranked[-1])) / 100)) if len(ranked) else LEAST_SCORE


def write_job(folder: Path, trial: Trial) -> None:
    """Leave the order in a folder, for processes that other means start."""
    values = {**asdict(trial), "comparison": trial.comparison.model_dump(mode="json")}
    part = folder / f"{JOB}.part"
    part.write_text(yaml.safe_dump(values), encoding="utf-8")
    part.replace(folder / JOB)


def work(folder: Path) -> None:
    """Carry out a folder's order in this process and its peers; errors as in `run_trial`."""
    values = read_yaml(folder / JOB)
    try:
        trial = Trial(Comparison.model_validate(values["comparison"]), str(values["weights"]), int(values["seed"]))
    except (ValueError, KeyError) as error:
        raise MocoError(f"{folder / JOB}: {str(error).splitlines()[0]}; start the run again") from None
    machine = load_machine()
    processes = join(machine.device, machine.step_timeout_seconds)
    try:
        run_trial(trial, Sets.of(trial.comparison), trial.backbone(), folder, machine, processes)
        processes.barrier()
    finally:
        leave()
