"""The schema of transfer/params.yaml: which tasks, from which weights, trained how.

A section's name is its task, and `supervised.kind` says which keys belong there, so that a key
means one thing. A key that may be left out leaves the value of the schedule or of the network; the
file holds all others.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from moco.config import Rate, Seed
from moco.encoders.kinds import AnyNetwork, StemText
from moco.errors import MocoError
from moco.settings import Settings, key_in_file, validate
from moco.transfer import data_config as images
from moco.transfer.data_config import Data, Named, no_more_than
from moco.yaml_files import read_yaml

FPN_LEVELS = 5
PARAMS = Path("transfer/params.yaml")
TaskName = Literal["detection", "instances", "keypoints", "semantic", "classification"]
Init = Literal["random", "supervised", "moco"]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Pixels = Annotated[int, Field(ge=8, le=8192)]


def _rising(factors: tuple[float, float]) -> tuple[float, float]:
    if factors[0] > factors[1]:
        raise ValueError(f"{list(factors)} must rise: the smallest factor, then the largest")
    return factors


Factor = Annotated[float, Field(gt=0, le=100)]


class Training(Settings):
    """Fine-tuning of a whole network on another task (paper, section 4.2)."""

    task: TaskName
    schedule: str = Field(description="Length, learning rates and sizes (docs/transfer.md).")
    iterations: int | None = Field(
        default=None,
        ge=1,
        le=100_000_000,
        description="Length of training; steps and warm-up are scaled to it. Left out: the schedule's.",
    )
    batch_size: int = Field(
        ge=1,
        le=1_048_576,
        description="Images an iteration, over all processes. The schedule's rate and length are scaled linearly to it.",
    )
    learning_rate: Rate | None = Field(
        default=None,
        description="For the schedule's own batch (16 images; 256 for classification). Left out: the schedule's.",
    )
    batch_norm: Literal["synchronized", "frozen", "local"] = Field(
        description="synchronized: trained, with the statistics of all processes' images (the paper). frozen: a fixed"
        " scale and shift. local: trained, each process with its own statistics."
    )
    precise_bn_batches: int = Field(
        ge=0,
        le=1_000_000,
        description="Batches whose statistics batch norm takes before testing (Detectron2: 200); 0: those that training"
        " left.",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        description="auto: bfloat16 autocast where the processor has it in hardware. Losses, boxes and tests are float32"
        " always."
    )
    trials: int = Field(
        ge=1, le=1000, description="Runs with the seeds seed, seed + 1, …; the paper reports the mean of 5."
    )
    seed: Seed = Field(description="Of the first trial: new layers, order of images, views and sampled proposals.")


class Detector(Training):
    """A detector. Sizes that are left out are the schedule's."""

    neck: Literal["c4", "fpn"] = Field(description="c4: res5 in the box head. fpn: a feature pyramid.")
    schedule: Literal["voc-24k", "coco-1x", "coco-2x", "lvis-2x"]
    short_sides: tuple[Pixels, ...] | None = Field(
        default=None, min_length=1, strict=False, description="Short sides; one is drawn for each training image."
    )
    long_side: Pixels | None = Field(default=None, description="Longest side that an image may have.")
    test_short_side: Pixels | None = Field(default=None, description="Short side of test images.")
    anchor_sizes: list[Count] | None = Field(
        default=None,
        min_length=1,
        description="Sides of the square anchors, pixels of the resized image; fpn has one for each level. Left out:"
        " 32, 64, 128, 256, 512. This and the next five are for small networks and images.",
    )
    width: Count | None = Field(default=None, description="Channels of the new convolutions. Left out: 256.")
    roi_size: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        default=None, description="Cells on the side of a region that the heads look at. Left out: 14."
    )
    rois_per_image: Count | None = Field(
        default=None, description="Regions of an image that the heads are trained on. Left out: 512."
    )
    proposals_train: tuple[Count, Count] | None = Field(
        default=None,
        strict=False,
        description="Proposals of an image before and after NMS, in training. Left out: 12000, 2000 (fpn: 2000, 1000).",
    )
    proposals_test: tuple[Count, Count] | None = Field(
        default=None, strict=False, description="The same in testing. Left out: 6000, 1000 (fpn: 1000, 1000)."
    )

    @model_validator(mode="after")
    def _sizes_go_together(self) -> "Detector":
        for name in ("short_sides", "test_short_side"):
            no_more_than(self, name, "long_side")
        if self.neck == "fpn" and self.anchor_sizes and len(self.anchor_sizes) != FPN_LEVELS:
            raise ValueError(
                f"anchor_sizes ({self.anchor_sizes}) must be {FPN_LEVELS} for neck fpn, one for each of its levels"
            )
        for name in ("proposals_train", "proposals_test"):
            if (both := getattr(self, name)) and both[1] > both[0]:
                raise ValueError(f"{name} ({list(both)}) must fall: proposals before NMS, then after it")
        return self


class Detection(Detector):
    """Boxes: Faster R-CNN."""

    task: Literal["detection"] = "detection"


class Instances(Detector):
    """Boxes and masks: Mask R-CNN."""

    task: Literal["instances"] = "instances"


class Keypoints(Detector):
    """Keypoints: Keypoint R-CNN."""

    task: Literal["keypoints"] = "keypoints"
    neck: Literal["fpn"]


class Semantic(Training):
    """A class for each pixel: a dilated FCN. Sizes that are left out are the schedule's."""

    task: Literal["semantic"] = "semantic"
    schedule: Literal["voc-seg", "cityscapes"]
    crop_size: Pixels | None = Field(default=None, description="Side of the square that is trained on.")
    scales: Annotated[tuple[Factor, Factor], AfterValidator(_rising)] | None = Field(
        default=None, strict=False, description="Smallest and largest factor by which training images are resized."
    )
    width: Count | None = Field(default=None, description="Channels of the new convolutions. Left out: 256.")


class Classification(Training):
    """A class for each image: the encoder and a linear layer. Sizes left out are the schedule's."""

    task: Literal["classification"] = "classification"
    schedule: Literal["inat", "labels-1%", "labels-10%"]
    crop_size: Pixels | None = Field(default=None, description="Side of the square that is trained and tested on.")
    test_short_side: Pixels | None = Field(default=None, description="Short side of test images before the crop.")
    label_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Share of each class's labelled training images that is used, one at least."
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> "Classification":
        no_more_than(self, "crop_size", "test_short_side", ", the image it is cut from")
        return self


D = TypeVar("D", bound=Data, covariant=True)
T = TypeVar("T", bound=Training, covariant=True)
BY_FORMAT = Field(discriminator="format")


class Comparison(Settings, Generic[D, T]):
    """One task of the table: every initialization is trained and tested in the same way."""

    data: D
    training: T


class Trained(Settings):
    """Weights that are trained here with labels."""

    kind: Literal["trained"]
    source: Named = Field(description="A shard set, whose labelled training images are trained on.")
    training: Classification


class Moco(Settings):
    """Weights trained without labels."""

    source: Named = Field(
        description="An encoder's folder, or a file of others, such as official or torchvision's ones."
    )
    stem: StemText | None = Field(
        default=None,
        description="The first layers of a file's network, where its names do not tell: imagenet, small, small-stride2 or"
        " values, as 3x3-stride1-padding2-nopool. Left out: as `moco inspect` prints them.",
    )


class Existing(Moco):
    """Weights that somebody trained with labels."""

    kind: Literal["file"]


class TransferParams(Settings):
    """All of transfer/params.yaml."""

    tasks: list[TaskName] = Field(min_length=1, description="The table's tasks; each has a section of its name.")
    inits: list[Init] = Field(min_length=1, description="The table's initializations.")
    watched: Named = Field(description="File or folder that DVC watches: when it changes, the tasks are run again.")
    scenes: images.Scenes | None = Field(description="A set composed of Fashion-MNIST items; null: none.")
    random: AnyNetwork = Field(
        description="Untrained weights, drawn for each trial by its seed; the network of the other initializations too."
    )
    supervised: Trained | Existing = Field(discriminator="kind")
    moco: Moco
    detection: Comparison[Annotated[images.VocBoxes | images.Coco, BY_FORMAT], Detection] | None = None
    instances: Comparison[Annotated[images.Voc | images.Coco, BY_FORMAT], Instances] | None = None
    keypoints: Comparison[images.CocoKeypoints, Keypoints] | None = None
    semantic: Comparison[Annotated[images.VocMaps | images.Cityscapes, BY_FORMAT], Semantic] | None = None
    classification: Comparison[images.Shards, Classification] | None = None

    @model_validator(mode="after")
    def _each_once_and_with_a_section(self) -> "TransferParams":
        for name in ("tasks", "inits"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} ({values}) holds one twice; name each once")
        for task in self.tasks:
            if self.of(task) is None:
                raise ValueError(f"tasks names {task}, which has no section; add it, or leave the task out")
        return self

    def of(self, task: str) -> Comparison[Data, Training] | None:
        """Give the section of a task; None where there is none, or no such task."""
        section: Comparison[Data, Training] | None = getattr(self, task) if task in get_args(TaskName) else None
        return section


def comparison_of(task: TaskName, values: Any, origin: str) -> Comparison[Data, Training]:
    """Validate the section of a task alone; errors as in `moco.settings.validate`."""
    schema, _ = get_args(TransferParams.model_fields[task].annotation)
    return validate(values, origin, schema)


def load_transfer_params(path: Path | str = PARAMS, overrides: Sequence[str] = ()) -> TransferParams:
    """Read and validate transfer/params.yaml; as `moco.config.load_params`."""
    values = read_yaml(path)
    if isinstance(supervised := values.get("supervised"), dict) and "kind" not in supervised:
        _refuse_earlier_version(values, path)
    return validate(values, str(path), TransferParams, overrides)


def _refuse_earlier_version(values: dict[str, Any], path: Path | str) -> NoReturn:
    """Say in one line what to change in a file that has no `supervised.kind`."""
    supervised = values["supervised"]
    supervised["kind"] = "trained" if supervised.get("training") else "file"
    lists: list[str] = []
    superfluous: dict[str, list[str]] = defaultdict(list)
    try:
        TransferParams.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            section, _, key = key_in_file(item["loc"], values).rpartition(".")
            if item["type"] == "extra_forbidden":
                superfluous[section].append(key)
            elif isinstance(item["input"], list):
                lists.append(f"{section}.{key}")
    raise MocoError(
        f"{path}: is of an earlier version; add `kind: {supervised['kind']}` to supervised"
        + f"; write {', '.join(lists)} as one name, not a list" * bool(lists)
        + "".join(f"; delete from {section}: {', '.join(keys)}" for section, keys in superfluous.items())
    )
