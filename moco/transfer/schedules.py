"""Fine-tuning schedules by name: how long, at which learning rates, and at which sizes of image.

A schedule is made for a batch of B images. With b images a step, the learning rate is b / B of what
is written here, and iterations, steps and warm-up are B / b of it (Goyal et al. 2017): the run sees
the same number of images, at the same rates an image. A run of another length scales steps and
warm-up to it.
"""

from bisect import bisect_right
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

from moco.transfer.config import Training

WARMUP_FROM = 1 / 1000
"""Share of the learning rate that warm-up begins with (Detectron2's WARMUP_FACTOR)."""


@dataclass(frozen=True)
class BoxSizes:
    """Sizes of images for detection, instance segmentation and keypoints, pixels.

    Attributes:
        short_sides: of training images; one of these is drawn for each image and epoch, as
            Detectron2 draws it.
        test_short_side: of test images.
        long_side: the longest that an image may become; its short side is then shorter than was
            drawn.
    """

    short_sides: tuple[int, ...]
    test_short_side: int
    long_side: int = 1333


@dataclass(frozen=True)
class PixelSizes:
    """Sizes for semantic segmentation; test images keep theirs.

    Attributes:
        crop_size: side of the square that is trained on, pixels.
        scales: smallest and largest factor by which an image is resized before the crop, uniform
            between them.
    """

    crop_size: int
    scales: tuple[float, float]


@dataclass(frozen=True)
class LabelSizes:
    """Sizes for classification, pixels.

    Attributes:
        crop_size: side of the square that is trained and tested on.
        test_short_side: that test images are resized to before their central square is cut out.
    """

    crop_size: int
    test_short_side: int


@dataclass(frozen=True)
class Schedule:
    """One published recipe.

    Attributes:
        length: of training, in `unit`.
        unit: of length, steps and warm-up.
        batch_size: images an iteration that the rates are for.
        learning_rate: after warm-up.
        steps: when the rate is multiplied by `decay`.
        sizes: of images; their kind says which tasks the schedule is for.
        warmup: how long the rate rises linearly to its full value.
        decay: factor at each step.
        new_layer_rate: multiple of the learning rate for the new classifier.
        weight_decay: on all parameters.
    """

    length: int
    unit: Literal["iterations", "epochs"]
    batch_size: int
    learning_rate: float
    steps: tuple[int, ...]
    sizes: BoxSizes | PixelSizes | LabelSizes
    warmup: int = 0
    decay: float = 0.1
    new_layer_rate: float = 1.0
    weight_decay: float = 1e-4


_VOC = BoxSizes(tuple(range(480, 801, 32)), 800)
_COCO = BoxSizes(tuple(range(640, 801, 32)), 800)
_IMAGENET = LabelSizes(224, 256)

SCHEDULES: dict[str, Schedule] = {
    # The official configurations for Detectron2, whose default warm-up is 1000 iterations.
    "voc-24k": Schedule(24_000, "iterations", 16, 0.02, (18_000, 22_000), _VOC, warmup=100),
    "coco-1x": Schedule(90_000, "iterations", 16, 0.02, (60_000, 80_000), _COCO, warmup=1000),
    "coco-2x": Schedule(180_000, "iterations", 16, 0.02, (120_000, 160_000), _COCO, warmup=1000),
    # (m) The paper's appendix; Detectron2 also repeats images of rare classes, which is not done
    # here.
    "lvis-2x": Schedule(180_000, "iterations", 16, 0.02, (120_000, 160_000), _COCO, warmup=1000),
    # (m) The paper's appendix: x 0.1 at 70 % and 90 % of training, no warm-up.
    "voc-seg": Schedule(30_000, "iterations", 16, 0.003, (21_000, 27_000), PixelSizes(513, (0.5, 2.0))),
    "cityscapes": Schedule(90_000, "iterations", 16, 0.01, (63_000, 81_000), PixelSizes(769, (0.5, 2.0))),
    # (m) The paper's appendix, for pretrained weights; 0.1 from random ones.
    "inat": Schedule(100, "epochs", 256, 0.025, (70, 90), _IMAGENET),
    # Caron et al. 2020 (SwAV), their code: a slow trunk and a fast classifier on few labels.
    "labels-1%": Schedule(20, "epochs", 256, 0.02, (12, 16), _IMAGENET, 0, 0.2, 250.0, 0.0),
    "labels-10%": Schedule(20, "epochs", 256, 0.01, (12, 16), _IMAGENET, 0, 0.2, 20.0, 0.0),
}


Sizes = TypeVar("Sizes", BoxSizes, PixelSizes, LabelSizes)


def schedule_of(settings: Training) -> Schedule:
    """Look up the schedule that the settings name."""
    return SCHEDULES[settings.schedule]


def sizes_of(settings: Training, kind: type[Sizes]) -> Sizes:
    """Take the schedule's sizes of images, with those that the settings give instead.

    Args:
        settings: of a task whose sizes are of this kind.
        kind: `BoxSizes`, `PixelSizes` or `LabelSizes`.
    """
    sizes = schedule_of(settings).sizes
    assert isinstance(sizes, kind)  # a test compares the schema with `SCHEDULES`
    names = {field.name for field in fields(kind)}
    return replace(sizes, **settings.model_dump(include=names, exclude_none=True))


@dataclass(frozen=True)
class Timetable:
    """A schedule for a batch and a length.

    Attributes:
        iterations: steps of the optimizer.
        learning_rate: after warm-up.
        steps: iterations from which on the rate is multiplied by `decay` once more.
        warmup: iterations during which it rises.
        decay: factor at each step.
    """

    iterations: int
    learning_rate: float
    steps: tuple[int, ...]
    warmup: int
    decay: float

    def rate(self, step: int) -> float:
        """Give the learning rate of a step, counted from 0."""
        rate = self.learning_rate * self.decay ** bisect_right(self.steps, step)
        if step < self.warmup:
            rate *= WARMUP_FROM + (1 - WARMUP_FROM) * step / self.warmup
        return rate


def timetable(
    schedule: Schedule, batch_size: int, images: int, iterations: int | None = None, learning_rate: float | None = None
) -> Timetable:
    """Scale a schedule to a batch and a length.

    Args:
        schedule: one of `SCHEDULES`.
        batch_size: images a step, over all processes.
        images: that are trained on; they turn epochs into iterations.
        iterations: of the run; None: those that show the schedule's number of images.
        learning_rate: for the schedule's own batch; None: the schedule's.
    """
    if schedule.unit == "epochs":
        natural = schedule.length * (images // batch_size)
    else:
        natural = round(schedule.length * schedule.batch_size / batch_size)
    total = natural if iterations is None else iterations
    rate = (learning_rate or schedule.learning_rate) * batch_size / schedule.batch_size
    steps = tuple(round(step * total / schedule.length) for step in schedule.steps)
    return Timetable(total, rate, steps, round(schedule.warmup * total / schedule.length), schedule.decay)
