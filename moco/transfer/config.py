"""The schema of transfer/params.yaml: which tasks, from which weights, on which data, trained how.

A section's name is its task, and `data.format` and `supervised.kind` say which keys belong there,
so that a key means one thing. A key that may be left out leaves the value of the schedule or of the
network; the file holds all others.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, get_args

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from moco.config import Fraction, Positive, Seed, Split
from moco.encoders.kinds import AnyNetwork, StemText
from moco.errors import MocoError
from moco.settings import Settings, key_in_file, read_yaml, validate

PARAMS = Path("transfer/params.yaml")
TaskName = Literal["detection", "instances", "keypoints", "semantic", "classification"]
Init = Literal["random", "supervised", "moco"]
Named = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=8, le=8192)]


class Scenes(Settings):
    """Composed scenes of Fashion-MNIST items, written as VOC folders and COCO JSON."""

    train: int = Field(ge=1, description="Training scenes.")
    val: int = Field(ge=1, description="Validation scenes, of training items set aside.")
    test: int = Field(ge=1, description="Test scenes, of test items.")
    side: int = Field(ge=48, le=2048, description="Longer side of a scene, pixels.")
    aspect_min: Annotated[float, Field(ge=0.25, le=1)] = Field(
        description="The shorter side is the longer times a factor drawn from [this, 1]; half of the scenes are upright."
        " 1: squares."
    )
    items_min: int = Field(ge=1, le=100, description="Fewest items put into a scene.")
    items_max: int = Field(ge=1, le=100, description="Most items; one for which there is no room is left out.")
    item_min: int = Field(ge=12, description="Smallest size of an item, pixels of its longer side.")
    item_max: int = Field(ge=12, description="Largest size; the logarithm of a size is drawn uniformly.")
    clutter: Fraction = Field(
        description="How busy the backgrounds are. 0: soft shades of one color. 1: stripes, checks and patches of"
        " strong contrast, edges between two of them, and up to four shapes of an item's size."
    )
    difficult_below: Fraction = Field(
        description="An item is `difficult` in VOC, and void in its label maps, where less than this share of it is"
        " seen. COCO has no such mark and lists it like any other. Of every item at least 0.15 is seen."
    )
    jpeg_quality: int = Field(ge=1, le=100, description="Quality of the scenes' JPEGs.")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Share of the training items that appear in validation scenes, and in these only."
    )
    split_seed: Seed = Field(
        description="Seed of that split, which is the fetch stage's where both values are the same."
    )
    seed: Seed = Field(description="Seed of the scenes.")

    @model_validator(mode="after")
    def _ranges_fit(self) -> "Scenes":
        for least, most in (("items_min", "items_max"), ("item_min", "item_max")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(f"{least} ({getattr(self, least)}) must not exceed {most} ({getattr(self, most)})")
        shortest = round(self.side * self.aspect_min)
        if self.item_max > shortest:
            raise ValueError(
                f"item_max ({self.item_max}) must not exceed the shortest side, side x aspect_min = {shortest} pixels"
            )
        return self


def _year_and_list(part: str) -> str:
    if "/" not in part:
        raise ValueError(f"{part!r} names no year; write YEAR/LIST, such as 2007/trainval")
    return part


def _rising(factors: tuple[float, float]) -> tuple[float, float]:
    if factors[0] > factors[1]:
        raise ValueError(f"{list(factors)} must rise: the smallest factor, then the largest")
    return factors


VocList = Annotated[str, AfterValidator(_year_and_list)]


class Data(Settings):
    """Images to train on (`train`), and to test on, once, after training (`test`)."""

    format: str
    path: Named


class AnnotatedImages(Data):
    """Images with annotations that are checked before any training."""

    max_bad_fraction: Fraction = Field(
        description="Largest share of bad annotations, and of bad images; those are listed and left out. Above it the"
        " stage stops."
    )


class Voc(AnnotatedImages):
    """PASCAL VOC's folders in the VOCdevkit that `path` names, read for boxes and masks."""

    format: Literal["voc"]
    train: list[VocList] = Field(min_length=1, description="YEAR/LIST of each part, such as 2007/trainval.")
    test: list[VocList] = Field(min_length=1)
    classes: list[Named] | None = Field(
        default=None, description="Names of the classes. Left out: VOC's, or if the files name others, those."
    )


class VocBoxes(Voc):
    """PASCAL VOC's folders, evaluated by VOC's own metric."""

    eleven_points: bool = Field(description="The metric of 2007 instead of that of 2010 and later.")


class VocMaps(Voc):
    """PASCAL VOC's folders, read for label maps; `classes` name the numbers from 1."""

    label_maps: Named | None = Field(
        default=None, description="Folder of the label maps, within a year's. Left out: SegmentationClass."
    )


class Coco(AnnotatedImages):
    """JSON files of COCO, or of LVIS, which has a metric of its own.

    `path` is the folder that the JSON's file names are relative to, or that holds one named as the
    JSON's name ends (train2017 of instances_train2017.json).
    """

    format: Literal["coco", "lvis"]
    train: Named
    test: Named


class CocoKeypoints(Coco):
    """JSON files of COCO with keypoints."""

    format: Literal["coco"]


class Cityscapes(AnnotatedImages):
    """Cityscapes' folders, leftImg8bit and gtFine in `path`; `train` and `test` are splits."""

    format: Literal["cityscapes"]
    train: Named
    test: Named


class Shards(Data):
    """A shard set with labels, whose index.json is in `path`."""

    format: Literal["shards"]
    train: Split
    test: Split


class Training(Settings):
    """Fine-tuning of a whole network on another task (paper, section 4.2)."""

    task: TaskName
    schedule: str = Field(description="Length, learning rates and sizes (docs/transfer.md).")
    iterations: int | None = Field(
        default=None,
        ge=1,
        description="Length of training; steps and warm-up are scaled to it. Left out: the schedule's.",
    )
    batch_size: int = Field(
        ge=1,
        description="Images an iteration, over all processes. The schedule's rate and length are scaled linearly to it.",
    )
    learning_rate: Positive | None = Field(
        default=None,
        description="For the schedule's own batch (16 images; 256 for classification). Left out: the schedule's.",
    )
    batch_norm: Literal["synchronized", "frozen", "local"] = Field(
        description="synchronized: trained, with the statistics of all processes' images (the paper). frozen: a fixed"
        " scale and shift. local: trained, each process with its own statistics."
    )
    precise_bn_batches: int = Field(
        ge=0,
        description="Batches whose statistics batch norm takes before testing (Detectron2: 200); 0: those that training"
        " left.",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        description="auto: bfloat16 autocast where the processor has it in hardware. Losses, boxes and tests are float32"
        " always."
    )
    trials: int = Field(ge=1, description="Runs with the seeds seed, seed + 1, …; the paper reports the mean of 5.")
    seed: Seed = Field(description="Of the first trial: new layers, order of images, views and sampled proposals.")


class Detector(Training):
    """A detector. Sizes that are left out are the schedule's."""

    neck: Literal["c4", "fpn"] = Field(description="c4: res5 in the box head. fpn: a feature pyramid.")
    schedule: Literal["voc-24k", "coco-1x", "coco-2x", "lvis-2x"]
    short_sides: tuple[Pixels, ...] | None = Field(
        default=None, min_length=1, description="Short sides; one is drawn for each training image."
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
    roi_size: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Cells on the side of a region that the heads look at. Left out: 14."
    )
    rois_per_image: Count | None = Field(
        default=None, description="Regions of an image that the heads are trained on. Left out: 512."
    )
    proposals_train: tuple[Count, Count] | None = Field(
        default=None,
        description="Proposals of an image before and after NMS, in training. Left out: 12000, 2000 (fpn: 2000, 1000).",
    )
    proposals_test: tuple[Count, Count] | None = Field(
        default=None, description="The same in testing. Left out: 6000, 1000 (fpn: 1000, 1000)."
    )


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
    scales: Annotated[tuple[Positive, Positive], AfterValidator(_rising)] | None = Field(
        default=None, description="Smallest and largest factor by which training images are resized."
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


class Existing(Settings):
    """Weights that somebody trained with labels."""

    kind: Literal["file"]
    source: Named = Field(description="A file, such as torchvision's, or an encoder's folder.")


class Moco(Settings):
    """Weights trained without labels."""

    source: Named = Field(description="An encoder's folder, or a file of others, such as the official ones.")
    stem: StemText | None = Field(
        default=None,
        description="The first layers of a file's network, where its names do not tell: imagenet, small, small-stride2"
        " or values, as 3x3-stride1-padding2-nopool. Left out: as `moco inspect` prints them.",
    )


class TransferParams(Settings):
    """All of transfer/params.yaml."""

    tasks: list[TaskName] = Field(min_length=1, description="The table's tasks; each has a section of its name.")
    inits: list[Init] = Field(min_length=1, description="The table's initializations.")
    watched: Named = Field(description="File or folder that DVC watches: when it changes, the tasks are run again.")
    scenes: Scenes | None = Field(description="A set composed of Fashion-MNIST items; null: none.")
    random: AnyNetwork = Field(
        description="Untrained weights, drawn for each trial by its seed; the network of the other initializations too."
    )
    supervised: Trained | Existing = Field(discriminator="kind")
    moco: Moco
    detection: Comparison[Annotated[VocBoxes | Coco, BY_FORMAT], Detection] | None = None
    instances: Comparison[Annotated[Voc | Coco, BY_FORMAT], Instances] | None = None
    keypoints: Comparison[CocoKeypoints, Keypoints] | None = None
    semantic: Comparison[Annotated[VocMaps | Cityscapes, BY_FORMAT], Semantic] | None = None
    classification: Comparison[Shards, Classification] | None = None

    @field_validator("random", mode="before")
    @classmethod
    def _network_is_of_a_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and "architecture" in values:
            raise ValueError(f"architecture has moved; write kind: resnet, name: {values['architecture']}")
        return values

    @model_validator(mode="after")
    def _tasks_have_sections(self) -> "TransferParams":
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
