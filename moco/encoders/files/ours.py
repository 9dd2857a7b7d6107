"""What our own files say of themselves: metadata, encoder.json beside them, a run's settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moco.encoders.files.opening import Opened
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.stem import Stem, stem_of
from moco.errors import MocoError, first_line


@dataclass(frozen=True)
class Described:
    """What a file says of its encoder; None where it does not.

    Attributes:
        said_by: where it says so.
        architecture: key of `ARCHITECTURES`; of other kinds of networks their own name.
        stem: of a ResNet.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        image_size: side of the images it was trained on, pixels.
        eval_crop_ratio: share of the short side that the center view keeps.
        kind: "resnet", or of another network.
        network: settings of another network, as the file has them.
    """

    said_by: str
    architecture: str | None = None
    stem: Stem | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    eval_crop_ratio: float | None = None
    kind: str = "resnet"
    network: Mapping[str, Any] | None = None


def described(opened: Opened) -> Described | None:
    """Read what a file, or encoder.json beside ours, says of the encoder.

    Raises:
        MocoError: a description of ours that cannot be read.
    """
    path = opened.path
    if "encoder" in opened.metadata:
        return _specification(_json(opened.metadata["encoder"], path), path, "its metadata")
    beside = path.with_name("encoder.json")
    if path.name == "encoder.safetensors" and beside.is_file():
        return _specification(_json(_text(beside), beside), beside, "encoder.json beside it")
    settings = opened.content.get("settings")
    if isinstance(settings, Mapping) and "encoder" in settings and "dictionary" in settings:
        mean, std = opened.content.get("mean", IMAGENET_MEAN), opened.content.get("std", IMAGENET_STD)
        values = {**settings, "architecture": settings["encoder"], "mean": mean, "std": std}
        if isinstance(settings["encoder"], str):
            del values["encoder"]
        return _specification(values, path, "its settings")
    return _of_others(opened)


def epoch_of(content: Mapping[str, Any]) -> int | None:
    """Give the epoch that a checkpoint was written in."""
    meta = content.get("meta")  # of mmengine
    for holder in (content, meta if isinstance(meta, Mapping) else {}):
        epoch = holder.get("epoch")
        if isinstance(epoch, int | np.integer) and not isinstance(epoch, bool):
            return int(epoch)
    return None


def _specification(values: Mapping[str, Any], path: Path, said_by: str) -> Described:
    try:
        named = (
            values["encoder"]
            if "encoder" in values
            else {"kind": "resnet", "name": values["architecture"], "stem": values["stem"]}
        )
        if not isinstance(named, Mapping):
            raise TypeError("names no network")
        name, kind, stem = named["name"], named["kind"], named.get("stem")
        if not (isinstance(name, str) and isinstance(kind, str) and isinstance(stem, str | Mapping | None)):
            raise TypeError("names no network")
        return Described(
            said_by,
            name,
            None if stem is None else stem_of(stem) if isinstance(stem, str) else Stem(**stem),
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            int(values["image_size"]),
            float(values["eval_crop_ratio"]),
            kind,
            None if kind == "resnet" else named,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, MocoError) as error:
        said = f"has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise MocoError(f"{path}: the description of the encoder {said}; restore the file") from None


def _of_others(opened: Opened) -> Described | None:
    """Mean, deviation and size that other programs keep in a known place."""
    train = opened.content.get("lightly_train")
    if isinstance(train, Mapping) and isinstance(train.get("normalize_args"), Mapping):
        numbers = train["normalize_args"]
        return _checked(Described("lightly-train"), numbers.get("mean"), numbers.get("std"), None)
    config = opened.path.with_name("config.json")
    if opened.path.name in ("model.safetensors", "pytorch_model.bin") and config.is_file():
        values = _json(_text(config), config)
        timm = values.get("pretrained_cfg")
        if isinstance(timm, Mapping):
            name = values.get("architecture")
            said = Described("config.json beside it", name, kind="timm", network={"kind": "timm", "name": name})
            return _checked(said, timm.get("mean"), timm.get("std"), (timm.get("input_size") or [None])[-1])
    return None


def _checked(said: Described, mean: Any, std: Any, size: Any) -> Described:
    def three(values: Any) -> tuple[float, ...] | None:
        right = isinstance(values, list | tuple) and len(values) == 3
        return tuple(map(float, values)) if right and all(isinstance(v, int | float) for v in values) else None

    return Described(
        said.said_by,
        said.architecture if isinstance(said.architecture, str) else None,
        mean=three(mean),
        std=three(std),
        image_size=size if isinstance(size, int) else None,
        kind=said.kind,
        network=said.network,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MocoError(f"{path}: cannot be read ({error}); restore it") from None


def _json(text: str, path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, Mapping):
        raise MocoError(f"{path}: the description of the encoder is no JSON object; restore the file")
    return values
