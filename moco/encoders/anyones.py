"""A frozen encoder of any file of weights, with what a person states where the file does not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moco.encoders.files.describe import in_one_line
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder
from moco.encoders.kinds import Network
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.start import fingerprint, loaded, read_as
from moco.errors import MocoError

SIZE, CROP_RATIO = 224, 0.875
"""Where neither file nor person says it: what most published encoders were trained on."""


@dataclass(frozen=True)
class Stated:
    """What a person knows of a file; None: nothing.

    Attributes:
        network: which it is of.
        stem: of a ResNet.
        image_size: side of the images it was trained on, pixels.
        crop_ratio: share of the short side that the center view keeps, in (0, 1].
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
    """

    network: Network | None = None
    stem: str | None = None
    image_size: int | None = None
    crop_ratio: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def encoder_of(path: Path, stated: Stated, devices: Sequence[torch.device] = ()) -> tuple[FrozenEncoder, str]:
    """Read the encoder of a folder of ours, or of a file that `moco.encoders.files` reads.

    Args:
        path: the folder or file.
        stated: what the file does not say.
        devices: where to encode; none: on the CPU.

    Returns:
        The encoder, and one line on what was read, left out and assumed; empty for a folder.

    Raises:
        MocoError: no encoder there, one whose network nobody tells, or one that says otherwise.
    """
    if path.is_dir() or not (path.exists() or path.suffix):  # a folder that is not there yet
        encoder = load_encoder(path, devices)
        own = encoder.spec
        _agree(path, stated.network, own.network, "network")
        _agree(path, stated.stem, getattr(own.network, "stem", None), "stem")
        for said, value in _numbers(stated, own.image_size, own.eval_crop_ratio, own.mean, own.std):
            _agree(path, *value, said)
        return encoder, ""
    found = read_as(path, stated.network, stated.stem)
    size, ratio, mean, std = (
        _agree(path, *value, said)
        for said, value in _numbers(stated, found.image_size, found.eval_crop_ratio, found.mean, found.std)
    )
    about = in_one_line(replace(found, mean=mean, std=std))
    if size is None or ratio is None:
        about += f"; images of {size or SIZE} pixels and the crop ratio {ratio or CROP_RATIO} are assumed"
    backbone = loaded(replace(found, image_size=size or SIZE))
    assert found.network is not None
    spec = EncoderSpec(
        found.network,
        size or SIZE,
        ratio or CROP_RATIO,
        mean or IMAGENET_MEAN,
        std or IMAGENET_STD,
        backbone.feature_dim,
        fingerprint(backbone),
    )
    return FrozenEncoder(backbone, spec, devices), about


def _numbers(stated: Stated, *said: Any) -> list[tuple[str, tuple[Any, Any]]]:
    names = ("image-size", "crop-ratio", "mean", "std")
    return list(
        zip(names, zip((stated.image_size, stated.crop_ratio, stated.mean, stated.std), said, strict=True), strict=True)
    )


def _agree(path: Path, stated: Any, said: Any, name: str) -> Any:
    """Give what a file or else a person says.

    Raises:
        MocoError: they differ.
    """
    if stated is not None and said is not None and stated != said:
        shown = (getattr(value, "words", value) for value in (said, stated))
        raise MocoError(f"{path}: says itself that its {name} is {next(shown)}, not {next(shown)}; leave --{name} out")
    return stated if said is None else said
