"""The one builder of encoders: settings become a network, whatever family it is of."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from moco.encoders.encode import features_of
from moco.encoders.kinds import Network, ResNet, network_of
from moco.encoders.split_batch_norm import split_batch_norm
from moco.errors import MocoError, first_line


class Backbone(nn.Module):
    """What an encoder is: normalized images N x 3 x H x W to features N x D. For types alone.

    Attributes:
        feature_dim: D.
    """

    feature_dim: int


def build_encoder(
    network: str | Mapping[str, Any] | Network,
    stem: str = "imagenet",
    bn_group_size: int | None = None,
    image_size: int | None = None,
) -> Backbone:
    """Build an encoder with fresh weights, drawn from torch's generator.

    Args:
        network: settings, or a label such as "resnet50" or "timm:convnext_tiny" (`network_of`).
        stem: of a ResNet that is named by its label.
        bn_group_size: images that share batch-norm statistics in training; None: the whole batch.
        image_size: side of the images in pixels, which some networks are made for.

    Raises:
        MocoError: there is no such network, or its norms cannot work in groups.
    """
    backbone = network_of(network, stem).build(image_size)
    if bn_group_size is not None:
        backbone = split_batch_norm(backbone, bn_group_size)
    return backbone  # type: ignore[return-value]  # with feature_dim; the families have no common base


def measured(network: Network, image_size: int) -> Backbone:
    """Build an encoder, and see that it encodes images of a size, each by itself.

    Raises:
        MocoError: it cannot be built, refuses the size, gives no features N x D, or features that
            depend on the other images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build_encoder(network, image_size=image_size).eval()
        images = torch.randn(2, 3, image_size, image_size)
    what = f"encoder {network.label}"
    try:
        with torch.inference_mode():
            both, alone = features_of(backbone, images), features_of(backbone, images[:1])
    except MocoError:
        raise
    except Exception as error:  # a library's or a person's own
        said = first_line(error)[:200]
        raise MocoError(
            f"{what}: refuses images of image_size = {image_size} pixels ({said}); choose another size or network"
        ) from error
    if not (both[0] - alone[0]).norm() <= 1e-3 * alone[0].norm():  # nor if they are not finite
        raise MocoError(
            f"{what}: in evaluation an image's features depend on the other images of its batch; let its norms keep"
            " running statistics, and return features that know one image each"
        )
    if both.shape[1] != backbone.feature_dim:
        raise MocoError(f"{what}: says feature_dim = {backbone.feature_dim} and gives {both.shape[1]}; correct it")
    return backbone


@cache
def _empty(description: str) -> Backbone:
    network = network_of(json.loads(description))
    if isinstance(network, ResNet):  # others' code does not always work without weights
        with torch.device("meta"):
            return build_encoder(network)
    with torch.random.fork_rng(devices=[]):
        return build_encoder(network)


def size_of(network: str | Network, stem: str = "imagenet") -> tuple[int, int]:
    """Count an encoder's parameters and features without making its weights."""
    made = _empty(network_of(network, stem).model_dump_json())
    return sum(parameter.numel() for parameter in made.parameters()), made.feature_dim


def shapes_of(network: str | Network, stem: str = "imagenet") -> dict[str, tuple[int, ...]]:
    """Give the shape of every entry of an encoder's state dict."""
    return {
        key: tuple(value.shape)
        for key, value in _empty(network_of(network, stem).model_dump_json()).state_dict().items()
    }
