"""The schema of params.yaml: one model a stage.

The schema validates and documents; it holds no defaults. The values live in params.yaml, which
`moco preset NAME` rewrites, so that a reader sees every number that shaped a result. The same
models are the parameters of the Prefect flow, the DVC params, the options of the command line and
what MLflow logs.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from moco.dictionary.kinds import AnyKind
from moco.encoders.init import NONE, AnyInit
from moco.encoders.kinds import AnyNetwork, ResNet
from moco.encoders.stem import stem_of
from moco.optimizers import AnyOptimizer
from moco.settings import Settings, validate
from moco.yaml_files import read_yaml

Fraction = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=10)]
Temperature = Annotated[float, Field(ge=1e-3, le=100)]
Rate = Annotated[float, Field(gt=0, le=10_000)]
Sigma = Annotated[float, Field(gt=0, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
MAY_IGNORE_LABELS = ("folder", "tars")
"""Sources whose labels `fetch.labels: none` leaves out."""


class Fetch(Settings):
    """Find the images, with their labels, and split them into train, val and test."""

    source: Literal["fashion-mnist", "folder", "cifar10", "stl10", "imagenet", "list", "tars"] = Field(
        description="Kind of source. `folder`: any tree of images; `list`: a CSV or Parquet file with the"
        " columns path and, optionally, label, split and group; `tars`: WebDataset tars; the others are the"
        " public data sets of that name."
    )
    path: str = Field(
        min_length=1,
        description="folder: the tree of images. list: the CSV or Parquet file. tars: a tar, or the folder that holds them. cifar10, stl10, imagenet:"
        " the folder that holds (or will hold) the data set's own files. fashion-mnist: not used.",
    )
    labels: Literal["folders", "none"] = Field(
        description="folder, tars. `folders`: the first folder below `path`, or a tar's fields, name the class; `none`: no labels."
    )
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Share of the training images set aside for validation, which makes every selection."
    )
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Share set aside for testing, where the source has no test set of its own."
    )
    split_seed: Seed = Field(description="Seed of the split. An image's side depends on this and its content only.")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "Fetch":
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must be below 1, else no image is left to train on")
        return self


class Shard(Settings):
    """Pack the images into WebDataset tars with an index."""

    samples_per_shard: int = Field(ge=1, le=10_000_000, description="Most images that a shard holds.")
    megabytes_per_shard: int = Field(
        ge=1,
        le=1_000_000,
        description="Most MB (10^6 bytes) of images that a shard holds; a larger image has a shard to itself.",
    )
    merge_below: int | None = Field(
        ge=1,
        le=10_000_000,
        description="Shards of fewer images, of a split and one after the other, become one as soon as they hold"
        " samples_per_shard images together. Null: never; images that arrive then change no tar.",
    )
    max_side: int | None = Field(
        ge=16,
        le=65_500,
        description="Longest side in pixels; larger images are resized and stored as JPEG. Null: bytes are copied as they are.",
    )
    jpeg_quality: int = Field(ge=1, le=100, description="Quality of the JPEGs that max_side makes.")
    max_bad_fraction: Fraction = Field(
        description="Largest share of unreadable files, of those whose names claim an image; above it the stage stops,"
        " for the source itself is wrong."
    )


class Check(Settings):
    """Look at the images before training: checks, duplicates, a data card."""

    min_images: int = Field(
        10, ge=1, le=10**9, description="Fewest training images. Set it to what your source has on its worst day."
    )
    max_quarantine: Fraction = Field(
        0.02, description="Largest share of unreadable files among those that claim an image."
    )
    min_side: int = Field(16, ge=1, le=65_500, description="Pixels of the shorter side below which an image is small.")
    max_small: Fraction = Field(0.05, description="Largest share of small images.")
    max_aspect: Annotated[float, Field(ge=1, le=10_000)] = Field(
        5.0, description="Longer side over shorter side above which an image is long: a view shows a strip of it."
    )
    max_long: Fraction = Field(0.05, description="Largest share of long images.")
    dark_below: Fraction = Field(0.15, description="Luma (0 to 1) of the brightest 1 % below which an image is dark.")
    max_dark: Fraction = Field(0.02, description="Largest share of dark images.")
    bright_above: Fraction = Field(0.85, description="Luma of the darkest 1 % above which an image is bright.")
    max_bright: Fraction = Field(0.05, description="Largest share of bright images.")
    sharp_from: Annotated[float, Field(ge=0, le=10)] = Field(
        0.03,
        description="Standard deviation of the Laplacian over that of the luma, at 256 pixels or fewer, below which an image is"
        " blurred.",
    )
    max_blurred: Fraction = Field(0.1, description="Largest share of blurred images.")
    max_empty: Fraction = Field(0.05, description="Largest share of images that are one plain area.")
    encoder: str | None = Field(
        None,
        min_length=1,
        description="What tells near-duplicates: an encoder's folder or a file of weights that `moco inspect` reads. Null: the"
        " correlation of 32 x 32 copies.",
    )
    hash_distance: int = Field(
        4, ge=0, le=7, description="Bits of 64 in which the hashes of a pair may differ for it to be compared."
    )
    min_likeness: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.99,
        description="Cosine of the features, or correlation of the copies, from which on a pair is a near-duplicate.",
    )
    mirrored: bool = Field(False, description="Whether the mirror image of an image is a near-duplicate of it.")
    max_duplicates: Fraction = Field(
        0.3, description="Largest share of images that are there already, exactly or nearly."
    )
    max_crossing: Fraction = Field(
        0.05, description="Largest share of validation and test images with a twin in an earlier split."
    )
    max_fewer: Fraction = Field(0.1, description="Largest share of the last version's images that may be missing.")
    max_class_shift: Annotated[float, Field(ge=0, le=100)] = Field(
        0.25, description="Largest population stability index of the classes against the last version."
    )
    max_look_shift: Annotated[float, Field(ge=0, le=2)] = Field(
        0.15,
        description="Largest distance (maximum mean discrepancy of 8 x 8 copies) of the images from the last version's.",
    )


class Views(Settings):
    """The random views of an image (MoCo v1: section 3.3 "Technical details"; v2: section 3)."""

    order: Literal["v1", "v2"] = Field(
        description="v1: crop, grayscale, jitter, flip. v2: crop, jitter, grayscale, blur, flip."
    )
    crop_scale_min: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Smallest share of the area that a crop keeps; the largest is 1."
    )
    jitter_p: Fraction = Field(description="Probability of color jitter.")
    brightness: Strength = Field(description="Factor drawn from [max(0, 1-x), 1+x].")
    contrast: Strength = Field(description="Factor drawn from [max(0, 1-x), 1+x].")
    saturation: Strength = Field(description="Factor drawn from [max(0, 1-x), 1+x].")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        description="Shift drawn from [-x, x], in turns of the color circle."
    )
    grayscale_p: Fraction = Field(description="Probability of dropping color.")
    blur_p: Fraction = Field(description="Probability of Gaussian blur (0 in v1).")
    blur_sigma_min: Sigma = Field(description="Smallest standard deviation of the blur, pixels.")
    blur_sigma_max: Sigma = Field(description="Largest standard deviation of the blur, pixels.")
    flip_p: Fraction = Field(description="Probability of a horizontal flip.")

    @model_validator(mode="after")
    def _sigma_is_a_range(self) -> "Views":
        if self.blur_sigma_min > self.blur_sigma_max:
            raise ValueError("blur_sigma_min must not exceed blur_sigma_max")
        return self


class Stream(Settings):
    """The order of images where shards are read as streams (docs/data.md)."""

    lanes: int = Field(
        ge=1,
        le=100_000,
        description="Places of the epoch that are read at once; a batch holds as many images of each. Divides global_batch; a multiple of the number of processes.",
    )
    window: int = Field(
        ge=1,
        le=10_000_000,
        description="Images among which a lane is shuffled. About one and a half windows of encoded images a lane are held in memory.",
    )


class Pretrain(Settings):
    """Train the encoder by Momentum Contrast; resumes from the last checkpoint."""

    moved: ClassVar[dict[str, str]] = {
        "mechanism": "dictionary.kind",
        "queue_size": "dictionary.num_keys",
        "momentum": "dictionary.momentum",
        "momentum_schedule": "dictionary.momentum_schedule",
        "symmetric": "dictionary.symmetric",
        "encoder": "encoder.name",
        "stem": "encoder.stem",
        "sgd_momentum": "optimizer.momentum",
        "weight_decay": "optimizer.weight_decay",
    }

    images: Literal["all", "labelled", "unlabelled"] = Field(
        description="Which training images to learn from. Labels are never shown; the choice is for mixed sets, where"
        " a part is curated."
    )
    images_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Share of those images; which ones depends on the seed alone, and smaller shares are part of larger ones."
    )
    encoder: AnyNetwork = Field(
        description="The network that is trained. resnet: the paper's family. timm, torchvision: any of theirs. module: your own."
    )
    init: AnyInit = Field(
        NONE,
        description="The first weights. random: drawn by the seed. file: any that `moco inspect` reads. model, champion: of the"
        " MLflow registry. published: timm's or torchvision's own.",
    )
    image_size: int = Field(ge=8, le=1024, description="Side of a view in pixels.")
    eval_crop_ratio: Annotated[float, Field(ge=0.25, le=1)] = Field(
        description="Evaluation resizes the short side to image_size / this, then crops the center (224/256 = 0.875; 1: no border lost)."
    )
    head: Literal["linear", "mlp", "mlp-bn"] = Field(
        description="Projection head: linear (v1), 2-layer MLP with ReLU (v2), or 3-layer MLP with batch norm (v3)."
    )
    dim: int = Field(ge=2, le=65_536, description="Dimension of queries and keys.")
    dictionary: AnyKind = Field(
        description="Where keys come from. momentum-queue: MoCo. memory-bank, end-to-end: its rivals (paper, figure 2)."
        " momentum-batch: a momentum encoder without queue, and a predictor, as in MoCo v3."
    )
    temperature: Temperature = Field(description="tau of InfoNCE (paper, equation 1).")
    views: Views = Field(description="Augmentation.")
    global_batch: int = Field(ge=2, le=1_048_576, description="Images a step, over all processes.")
    stream: Stream | None = Field(
        description="Null: a fresh shuffle of all images every epoch, each read by its place in a local tar. Lanes and window:"
        " the coarser shuffle of tars that are read forwards only, from anywhere (`shards_from` in machine.yaml)."
    )
    bn_group_size: int = Field(
        ge=2,
        le=1_048_576,
        description="Images that share batch-norm statistics (32 = the paper's 256 over 8 GPUs); divides global_batch.",
    )
    shuffle_bn: bool = Field(
        description="Shuffle the keys over the BN groups (paper, section 3.3); false only for the ablation."
    )
    lr_per_256: Rate = Field(description="Learning rate for 256 images a step; scaled linearly with global_batch.")
    optimizer: AnyOptimizer = Field(
        description="How weights follow gradients. sgd: MoCo v1 and v2. adamw, lars: MoCo v3."
    )
    warmup_epochs: Annotated[float, Field(ge=0, le=100_000)] = Field(
        0.0, description="Epochs in which the learning rate rises from 0, before `schedule`."
    )
    schedule: Literal["cosine", "steps"] = Field(description="Learning rate over time.")
    milestones: list[Fraction] = Field(
        max_length=100, description="steps: the shares of training after which the rate is divided by 10."
    )
    epochs: int = Field(ge=1, le=100_000, description="Passes over the training images.")
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        description="auto: bfloat16 autocast where the processor has it in hardware, else float32. tf32: float32 whose factors"
        " a GPU rounds to 10 bits. Logits and loss are float32 always."
    )
    seed: Seed = Field(description="Seeds the weights, the queue, the order of images, the views and the shuffles.")
    log_every_steps: int = Field(ge=1, le=1_000_000, description="Steps between two rows of the curves.")
    knn_every_epochs: int = Field(
        ge=0,
        le=100_000,
        description="Epochs between two readings on the validation split (kNN, spread, effective rank, batch-norm leak); 0: none.",
    )

    @model_validator(mode="after")
    def _batch_holds_whole_groups(self) -> "Pretrain":
        if self.global_batch % self.bn_group_size:
            raise ValueError(
                f"global_batch ({self.global_batch}) must be a multiple of bn_group_size ({self.bn_group_size})"
            )
        return self

    @model_validator(mode="after")
    def _image_fills_the_first_layers(self) -> "Pretrain":
        stem = stem_of(self.encoder.stem) if isinstance(self.encoder, ResNet) else None
        if stem and (least := stem.kernel - 2 * stem.padding) > self.image_size:
            raise ValueError(
                f"image_size ({self.image_size}) must not be less than {least}, which encoder.stem ({stem}) needs"
            )
        return self

    @property
    def negatives(self) -> int:
        """Keys of other images that a query is compared with."""
        return self.global_batch - 1 if self.dictionary.about.in_batch else int(getattr(self.dictionary, "num_keys"))  # noqa: B009

    @property
    def symmetric(self) -> bool:
        """Whether each view is query and key in turn."""
        return bool(getattr(self.dictionary, "symmetric", False))

    @model_validator(mode="after")
    def _batch_holds_as_many_of_each_lane(self) -> "Pretrain":
        if self.stream is not None and self.global_batch % self.stream.lanes:
            raise ValueError(
                f"global_batch ({self.global_batch}) must be a multiple of stream.lanes ({self.stream.lanes})"
            )
        return self


class Linear(Settings):
    """Measure the features: a linear classifier (paper, section 4.1) and weighted kNN."""

    views: Literal["center", "augmented"] = Field(
        description="center: features of one center view, extracted once. augmented: the paper's random crops and flips, extracted again each epoch."
    )
    epochs: int = Field(
        ge=1,
        le=100_000,
        description="Passes over the labelled training images; the rate is divided by 10 at 60 % and 80 %.",
    )
    batch_size: int = Field(ge=1, le=1_048_576, description="Images a step.")
    learning_rates: list[Rate] = Field(
        min_length=1, max_length=100, description="Probed together in one pass; validation chooses."
    )
    sgd_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="Momentum of SGD.")
    weight_decay: Strength = Field(description="Weight decay.")
    knn_k: int = Field(ge=1, le=1_000_000, description="Neighbors that vote.")
    knn_temperature: Temperature = Field(description="A neighbor's vote weighs exp(similarity / this).")
    seed: Seed = Field(description="Seeds the classifier and the order of images.")


class Report(Settings):
    """Write outputs/report: one page of tables and pictures."""

    moved: ClassVar[dict[str, str]] = {"neighbours": "neighbors"}  # codespell:ignore neighbours

    views: int = Field(ge=1, le=32, description="Images whose views are shown.")
    queries: int = Field(ge=1, le=32, description="Images whose nearest neighbors are shown.")
    neighbors: int = Field(ge=1, le=32, description="Neighbors shown for each.")
    map_images: int = Field(ge=16, le=20000, description="Images in the 2-D map of the features.")
    seed: Seed = Field(description="Seeds the choice of images and the map.")


class Params(Settings):
    """All of params.yaml."""

    fetch: Fetch
    shard: Shard
    check: Check = Check()
    pretrain: Pretrain
    linear: Linear
    report: Report

    @model_validator(mode="after")
    def _labels_are_there(self) -> "Params":
        none = self.fetch.labels == "none" and self.fetch.source in MAY_IGNORE_LABELS
        if none and self.pretrain.images == "labelled":
            raise ValueError(
                "pretrain.images (labelled) finds none, for fetch.labels is none; set fetch.labels: folders, or pretrain.images:"
                " all"
            )
        return self


def load_params(path: Path | str = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read and validate params.yaml.

    Args:
        path: the YAML file.
        overrides: strings `section.key=value`, the value in YAML (`pretrain.epochs=3`).

    Raises:
        MocoError: the file is missing or not YAML, or a key or value is not allowed; one line.
    """
    return validate(read_yaml(path), str(path), Params, overrides)


def settings_hash(*parts: Any) -> str:
    """Give a short stable name (16 hex digits) for settings and other JSON values together."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
