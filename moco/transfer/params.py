"""The schema of transfer/params.yaml: which tasks, from which weights, on which data, trained how."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from moco.config import Fraction
from moco.settings import Settings, read_yaml, validate
from moco.transfer.scenes.build import Scenes
from moco.transfer.settings import TaskName, Transfer

Init = Literal["random", "supervised", "moco"]
PARAMS = Path("transfer/params.yaml")
Named = Annotated[str, Field(min_length=1)]


class Data(Settings):
    """Annotated images in a form that other tools read and write."""

    format: Literal["voc", "coco", "lvis", "cityscapes", "shards"] = Field(
        description="voc: VOCdevkit. coco, lvis: JSON files. cityscapes: leftImg8bit and gtFine. shards: a shard set with labels"
        " (classification)."
    )
    path: Named = Field(
        description="voc: the folder VOCdevkit. coco, lvis: the folder that the JSON's file names are relative to, or"
        " that holds one named as the JSON's name ends (train2017 of instances_train2017.json). cityscapes:"
        " the folder of leftImg8bit and gtFine. shards: the folder of index.json."
    )
    train: list[Named] = Field(
        min_length=1,
        description="voc: YEAR/LIST of each part, such as 2007/trainval. coco, lvis: the JSON file. cityscapes, shards: the split.",
    )
    test: list[Named] = Field(
        min_length=1, description="The same of the images that are tested on; used once, after training."
    )
    label_maps: Named | None = Field(description="voc, semantic: folder of the label maps; null: SegmentationClass.")
    classes: list[Named] | None = Field(
        description="voc: names of the classes (semantic: background first). Null: VOC's; for boxes, those that the files name if they are others."
    )
    eleven_points: bool = Field(description="voc boxes: the metric of 2007 in the place of that of 2010 and later.")
    max_bad_fraction: Fraction = Field(
        description="Largest share of bad annotations, and of bad images, which are listed and left out; above it the stage stops."
    )

    @model_validator(mode="after")
    def _parts_are_named(self) -> "Data":
        if self.format != "voc":
            several = [name for name in ("train", "test") if len(getattr(self, name)) > 1]
            if several:
                raise ValueError(
                    f"{several[0]} names {len(getattr(self, several[0]))} parts, which only voc may; name one"
                )
            return self
        for part in (*self.train, *self.test):
            if "/" not in part:
                raise ValueError(f"{part!r} names no year; write YEAR/LIST, such as 2007/trainval")
        return self


FORMATS: dict[TaskName, tuple[str, ...]] = {
    "detection": ("voc", "coco", "lvis"),
    "instances": ("voc", "coco", "lvis"),
    "keypoints": ("coco",),
    "semantic": ("voc", "cityscapes"),
    "classification": ("shards",),
}


class Comparison(Settings):
    """One task of the table: every initialization is trained alike and tested alike."""

    data: Data
    training: Transfer

    @model_validator(mode="after")
    def _data_fit_the_task(self) -> "Comparison":
        fitting = FORMATS[self.training.task]
        if self.data.format not in fitting:
            raise ValueError(
                f"data.format = {self.data.format} has no annotations for task = {self.training.task}; use {' or '.join(fitting)}"
            )
        return self


class Random(Settings):
    """Untrained weights, drawn anew for each trial."""

    architecture: Named = Field(description="As `moco encoders` lists them; that of the other initializations.")
    stem: Literal["imagenet", "small", "small-stride2"] = Field(description="That of the others.")


class Supervised(Settings):
    """Weights trained with labels."""

    source: Named = Field(
        description="A shard set, whose labelled training images are trained on; or weights that exist: a file of torchvision, an encoder's folder."
    )
    training: Transfer | None = Field(description="How, if `source` is a shard set.")


class Moco(Settings):
    """Weights trained without labels."""

    source: Named = Field(description="An encoder's folder of ours, or a file of others, such as the official ones.")


class TransferParams(Settings):
    """All of transfer/params.yaml."""

    tasks: list[TaskName] = Field(min_length=1, description="The table's tasks; each has a section below.")
    inits: list[Init] = Field(min_length=1, description="The table's initializations.")
    watched: Named = Field(description="File or folder that DVC watches: when it changes, the tasks are run again.")
    scenes: Scenes | None = Field(description="A set composed of Fashion-MNIST items; null: none.")
    random: Random
    supervised: Supervised
    moco: Moco
    detection: Comparison | None = None
    instances: Comparison | None = None
    keypoints: Comparison | None = None
    semantic: Comparison | None = None
    classification: Comparison | None = None

    @model_validator(mode="after")
    def _tasks_have_sections(self) -> "TransferParams":
        for task in self.tasks:
            section = self.of(task)
            if section is None:
                raise ValueError(f"tasks names {task}, which has no section; add it, or leave the task out")
            if section.training.task != task:
                raise ValueError(f"{task}.training.task = {section.training.task}; set it to {task}")
        return self

    def of(self, task: str) -> Comparison | None:
        """The section of a task; None where there is none, or no such task."""
        section: Comparison | None = getattr(self, task) if task in get_args(TaskName) else None
        return section


def load_transfer_params(path: Path | str = PARAMS, overrides: Sequence[str] = ()) -> TransferParams:
    """Read and validate transfer/params.yaml; arguments and errors as in `moco.config.load_params`."""
    return validate(read_yaml(path), str(path), TransferParams, overrides)
