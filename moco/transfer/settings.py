"""Everything that decides the result of a fine-tuning run, apart from its data and the weights it starts from."""

from dataclasses import fields, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from moco.config import Positive, Seed
from moco.settings import Settings
from moco.transfer.schedules import SCHEDULES, BoxSizes, LabelSizes, PixelSizes, Schedule

TaskName = Literal["detection", "instances", "keypoints", "semantic", "classification"]
Pixels = Annotated[int, Field(ge=8, le=8192)]
Count = Annotated[int, Field(ge=1)]
Sizes = TypeVar("Sizes", BoxSizes, PixelSizes, LabelSizes)

KIND_OF_SIZES: dict[str, type] = {
    "detection": BoxSizes,
    "instances": BoxSizes,
    "keypoints": BoxSizes,
    "semantic": PixelSizes,
    "classification": LabelSizes,
}
HEADS = ("width", "anchor_sizes", "roi_size", "rois_per_image", "proposals_train", "proposals_test")
"""Names of the settings that are passed on to the model where they are not null."""
SIZES = tuple(dict.fromkeys(field.name for kind in KIND_OF_SIZES.values() for field in fields(kind)))
"""Names of the settings that take the place of a schedule's sizes."""


class Transfer(Settings):
    """Fine-tuning of a whole network on another task (paper, section 4.2). Null leaves the schedule's own value."""

    task: TaskName = Field(
        description="detection: boxes (Faster R-CNN). instances: boxes and masks (Mask R-CNN). keypoints: Keypoint"
        " R-CNN. semantic: a class for each pixel (dilated FCN). classification: a class for each image."
    )
    neck: Literal["c4", "fpn"] | None = Field(
        description="Detectors: c4 (res5 in the box head) or fpn (feature pyramid). Null for semantic and classification."
    )
    schedule: str = Field(description=f"Length, learning rates and sizes: one of {', '.join(SCHEDULES)}.")
    iterations: int | None = Field(
        ge=1, description="Length of training; steps and warm-up are squeezed with it. Null: the schedule's."
    )
    batch_size: int = Field(
        ge=1,
        description="Images an iteration, over all processes. The schedule's rate and length are scaled linearly to it.",
    )
    learning_rate: Positive | None = Field(
        description="For the schedule's own batch (16 images; 256 for classification). Null: the schedule's."
    )
    batch_norm: Literal["synchronized", "frozen", "local"] = Field(
        description="synchronized: trained, with the statistics of all processes' images (the paper). frozen: a fixed"
        " scale and shift. local: trained, each process with its own statistics."
    )
    precise_bn_batches: int = Field(
        ge=0,
        description="Batches whose statistics batch norm takes before testing (Detectron2: 200); 0: those that training left.",
    )
    short_sides: list[Pixels] | None = Field(
        min_length=1, description="Detectors: short sides of training images, one of which is drawn for each."
    )
    long_side: Pixels | None = Field(description="Detectors: longest side that an image may have.")
    test_short_side: Pixels | None = Field(
        description="Detectors: short side of test images. Classification: short side before the central crop."
    )
    crop_size: Pixels | None = Field(description="Semantic and classification: side of the square that is trained on.")
    scales: tuple[Positive, Positive] | None = Field(
        description="Semantic: smallest and largest factor by which training images are resized."
    )
    anchor_sizes: list[Count] | None = Field(
        min_length=1,
        description="Detectors: sides of the square anchors, pixels of the resized image; fpn has one for each level. Null: 32, 64, 128, 256, 512.",
    )
    width: int | None = Field(
        ge=1,
        description="Detectors and semantic: channels of the new convolutions. Null: 256. This and the next four are for small networks and images.",
    )
    roi_size: Annotated[int, Field(ge=2)] | None = Field(
        description="Detectors: cells on the side of a region that the heads look at. Null: 14."
    )
    rois_per_image: int | None = Field(
        ge=1, description="Detectors: regions of an image that the heads are trained on. Null: 512."
    )
    proposals_train: tuple[Count, Count] | None = Field(
        description="Detectors: proposals of an image before and after NMS, in training. Null: 12000, 2000 (fpn: 2000, 1000)."
    )
    proposals_test: tuple[Count, Count] | None = Field(
        description="Detectors: the same in testing. Null: 6000, 1000 (fpn: 1000, 1000)."
    )
    label_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Classification: share of each class's labelled training images that is used, one at least. 1 for other tasks."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="auto: bfloat16 autocast where the processor has it in hardware. Losses, boxes and tests are float32 always."
    )
    trials: int = Field(ge=1, description="Runs with the seeds seed, seed + 1, …; the paper reports the mean of 5.")
    seed: Seed = Field(description="Of the first trial: new layers, order of images, views and sampled proposals.")

    def heads(self) -> dict[str, Any]:
        """Options of the model, those alone that are not null."""
        given = {name: getattr(self, name) for name in HEADS}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Transfer":
        detector = self.task in ("detection", "instances", "keypoints")
        if detector != (self.neck is not None):
            raise ValueError(
                f"neck = {self.neck} does not fit task = {self.task}; "
                + ("choose c4 or fpn" if detector else "set it to null")
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule = {self.schedule!r} is not known; choose one of {', '.join(SCHEDULES)}")
        kind = KIND_OF_SIZES[self.task]
        if not isinstance(SCHEDULES[self.schedule].sizes, kind):
            fitting = ", ".join(name for name, each in SCHEDULES.items() if isinstance(each.sizes, kind))
            raise ValueError(f"schedule = {self.schedule} is not for task = {self.task}; choose one of {fitting}")
        known = {field.name for field in fields(kind)}
        for name in SIZES:
            if getattr(self, name) is not None and name not in known:
                raise ValueError(f"{name} does not apply to task = {self.task}; set it to null")
        for name in HEADS:
            fits = detector or (name == "width" and self.task == "semantic")
            if getattr(self, name) is not None and not fits:
                raise ValueError(f"{name} does not apply to task = {self.task}; set it to null")
        if self.label_fraction < 1 and self.task != "classification":
            raise ValueError(f"label_fraction does not apply to task = {self.task}; set it to 1")
        if self.scales and self.scales[0] > self.scales[1]:
            raise ValueError("scales must rise: the smallest factor, then the largest")
        return self


def schedule_of(settings: Transfer) -> Schedule:
    """The schedule that the settings name."""
    return SCHEDULES[settings.schedule]


def sizes_of(settings: Transfer, kind: type[Sizes]) -> Sizes:
    """The sizes of images: the schedule's, and what the settings put in their place."""
    sizes = schedule_of(settings).sizes
    assert isinstance(sizes, kind)  # the settings were checked for it
    given = {field.name: getattr(settings, field.name) for field in fields(kind)}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "short_sides" in own:
        own["short_sides"] = tuple(own["short_sides"])
    return replace(sizes, **own)
