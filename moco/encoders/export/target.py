"""The shape of a target, and what every one of them shares."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco.encoders.export.source import Source
from moco.encoders.frozen import EncoderSpec
from moco.encoders.kinds import ResNet
from moco.errors import MocoError

Features = Callable[[Tensor], Tensor]
"""Images, uint8 N x 3 x S x S, to features, float32 N x D."""
WIDTHS_OF_OUR_OWN = ("thin", "resnet50w2", "resnet50w4")
"""ResNets whose layers are wider or narrower than any that other libraries name."""
MOST = 1e-4
"""Largest difference of features that is rounding, in parts of the largest feature."""
_BATCHES = (5, 1)  # one of them is the size that no tracer saw


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        suffixes: that its files have; empty: it is a folder.
        write: writes a source to a path.
        read: loads what was written, as the program that it is for does; None: the program that
            could is not installed, and the second says which.
        how: says how it is loaded, in one line, given the source and the final path.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Source, Path], None]
    read: Callable[[Source, Path], Features | str]
    how: Callable[[Source, Path], str]


def largest_difference(source: Source, features: Features) -> float:
    """Compare features with the source's on random images, in parts of the largest feature.

    Raises:
        MocoError: they differ by more than rounding, in shape, or are not finite.
    """
    size, generator = source.spec.image_size, torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in _BATCHES:
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
        wanted, found = source.encoder.embed(images), features(images)
        if not wanted.isfinite().all():
            raise MocoError(f"{source.path}: gives features that are not finite; export another checkpoint or encoder")
        if wanted.shape != found.shape:
            raise MocoError(f"{source.label}: gives {tuple(found.shape)} there and {tuple(wanted.shape)} here")
        difference = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
        if not difference <= MOST:  # nor if it is not a number
            raise MocoError(
                f"{source.label}: the features there differ by {difference:.1e} of the largest, more than rounding does"
                f" ({MOST:g}); another network has this name there, so take --to onnx, pt2 or safetensors"
            )
        largest = max(largest, difference)
    return largest


def saved(content: Any, path: Path) -> None:
    """Write what torch.save makes of it; by way of memory, for torch does not name a full disk."""
    made = io.BytesIO()
    torch.save(content, made)
    path.write_bytes(made.getbuffer())


def plain_resnet(source: Source, target: str) -> ResNet:
    """Give the ResNet with torchvision's names and stem that a source is.

    Raises:
        MocoError: it is another network, which the target has no name for.
    """
    network, other = source.spec.network, ""
    if isinstance(network, ResNet):
        if network.name in WIDTHS_OF_OUR_OWN:
            other = f"a ResNet called {network.name}"
        elif network.stem != "imagenet":
            other = f"a ResNet with the stem {network.stem}"
        else:
            return network
    elif network.kind in ("timm", "torchvision") and not getattr(network, "options", {}):
        try:
            found = ResNet(kind="resnet", name=network.name, stem="imagenet")
        except ValueError:
            other = network.label
        else:
            return found
    raise no_place(source, target, other)


def no_place(source: Source, target: str, what: str = "") -> MocoError:
    """Make the error of a network that a target has no name for."""
    return MocoError(
        f"{source.path}: {target} has no place for {what or source.label}; take --to onnx, pt2 or safetensors, which"
        " hold any network"
    )


def description(spec: EncoderSpec) -> dict[str, str]:
    """Say in a file's metadata what must be known to use it."""
    return {
        "input": f"uint8 N x 3 x {spec.image_size} x {spec.image_size}, RGB, not normalized",
        "output": f"float32 N x {spec.feature_dim}",
        "mean": ", ".join(f"{value:g}" for value in spec.mean),
        "std": ", ".join(f"{value:g}" for value in spec.std),
        "image_size": str(spec.image_size),
        "eval_crop_ratio": f"{spec.eval_crop_ratio:g}",
        "training_hash": spec.training_hash,
    }
