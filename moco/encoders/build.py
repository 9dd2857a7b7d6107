"""The one builder of encoders: a name becomes a network, whatever family it is of."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from moco.encoders.resnet import ARCHITECTURES, ResNet
from moco.encoders.stem import Stem
from moco.errors import MocoError


class Backbone(Protocol):
    """What an encoder is beside an `nn.Module`: normalized images N x 3 x H x W to features N x D.

    Attributes:
        feature_dim: D.
    """

    feature_dim: int

    def stages(self, last: int) -> nn.Module:
        """Give a copy of stages 1 … `last`: images to a list of N x C x H' x W', the finest first.

        It has `channels` and `strides`, one of each for every stage.
        """


FAMILIES: tuple[tuple[Iterable[str], Callable[..., nn.Module]], ...] = ((ARCHITECTURES, ResNet),)
"""Each family: its names, and its constructor of name, stem and bn_group_size. A new family is a
line here."""


def encoder_names() -> list[str]:
    """List what `build_encoder` can build."""
    return [name for names, _ in FAMILIES for name in names]


def build_encoder(name: str, stem: str | Stem = "imagenet", bn_group_size: int | None = None) -> ResNet:
    """Build an encoder with fresh weights, drawn from torch's generator.

    Args:
        name: one of `encoder_names`.
        stem: "imagenet", "small", "small-stride2" or any `Stem`, where the family has a choice.
        bn_group_size: images that share batch-norm statistics in training; None: the whole batch.

    Raises:
        MocoError: no family knows the name.
    """
    for names, build in FAMILIES:
        if name in names:
            return build(name, stem, bn_group_size)  # type: ignore[return-value]  # a Backbone; mypy has no intersections
    raise MocoError(f"pretrain.encoder = {name!r} is no known encoder; choose one of {', '.join(encoder_names())}")


def size_of(name: str, stem: str | Stem = "imagenet") -> tuple[int, int]:
    """Count an encoder's parameters and features without making its weights."""
    with torch.device("meta"):
        network = build_encoder(name, stem)
    return sum(parameter.numel() for parameter in network.parameters()), network.feature_dim


@cache
def shapes_of(name: str, stem: str | Stem = "imagenet") -> dict[str, tuple[int, ...]]:
    """Give the shape of every entry of an encoder's state dict."""
    with torch.device("meta"):
        state: dict[str, Tensor] = build_encoder(name, stem).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}
