"""The sections of transfer/params.yaml that say which images: scenes, sets in their formats.

`data.format` says which keys belong there.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from moco.config import Fraction, Seed, Split
from moco.settings import Settings

Named = Annotated[str, Field(min_length=1)]


def no_more_than(section: Settings, least: str, most: str, why: str = "") -> None:
    """Refuse a value (of several the largest) above another of the section, if both are there."""
    low, high = getattr(section, least), getattr(section, most)
    low = max(low) if isinstance(low, tuple) else low
    if None not in (low, high) and low > high:
        raise ValueError(f"{least} ({low}) must not exceed {most} ({high}){why}")


class Scenes(Settings):
    """Composed scenes of Fashion-MNIST items, written as VOC folders and COCO JSON."""

    train: int = Field(ge=1, le=10_000_000, description="Training scenes.")
    val: int = Field(ge=1, le=10_000_000, description="Validation scenes, of training items set aside.")
    test: int = Field(ge=1, le=10_000_000, description="Test scenes, of test items.")
    side: int = Field(ge=48, le=2048, description="Longer side of a scene, pixels.")
    aspect_min: Annotated[float, Field(ge=0.25, le=1)] = Field(
        description="The shorter side is the longer times a factor drawn from [this, 1]; half of the scenes are upright."
        " 1: squares."
    )
    items_min: int = Field(ge=1, le=100, description="Fewest items put into a scene.")
    items_max: int = Field(ge=1, le=100, description="Most items; one for which there is no room is left out.")
    item_min: int = Field(ge=12, le=2048, description="Smallest size of an item, pixels of its longer side.")
    item_max: int = Field(ge=12, le=2048, description="Largest size; the logarithm of a size is drawn uniformly.")
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
        no_more_than(self, "items_min", "items_max")
        no_more_than(self, "item_min", "item_max")
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
