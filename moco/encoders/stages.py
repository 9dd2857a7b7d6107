"""The stages that detectors and segmenters take from a network."""

import copy

from torch import Tensor, nn

from moco.errors import MocoError

STAGES = 4
"""Stages of a pyramid: the coarsest ones of a network."""


class Stages(nn.Module):
    """The first stages of a network: images N x 3 x H x W to N x C x H' x W' a stage, finest first.

    Attributes:
        channels: of each stage's output.
        strides: of each stage's output, in pixels of the image.
    """

    channels: list[int]
    strides: list[int]


def stages_of(network: nn.Module, last: int) -> Stages:
    """Give a copy of a network's stages 1 … `last`, as `Stages` describes them.

    A network of your own has a method `stages(last)` that gives them; timm's tell of what they are
    made.

    Raises:
        MocoError: the network hands out no stages.
    """
    if callable(getattr(type(network), "stages", None)):
        own: Stages = network.stages(last)  # type: ignore[operator]
        return own
    maps = hasattr(network, "forward_intermediates") and not hasattr(network, "pos_embed")  # a ViT has one size alone
    if maps and len(getattr(network, "feature_info", ())) >= STAGES:
        return TimmStages(network, last)
    raise MocoError(
        f"a {type(network).__name__} hands out no stages, which detection and segmentation need; take a ResNet or a"
        " convolutional network of timm, or give your own a method stages(last)"
    )


class TimmStages(Stages):
    """The coarsest stages of a network of timm."""

    def __init__(self, network: nn.Module, last: int) -> None:
        super().__init__()
        stages = list(network.feature_info)[-STAGES:][:last]  # type: ignore[arg-type]
        self.levels = [len(network.feature_info) - STAGES + n for n in range(last)]  # type: ignore[arg-type]
        self.channels = [int(stage["num_chs"]) for stage in stages]
        self.strides = [int(stage["reduction"]) for stage in stages]
        self.network = copy.deepcopy(network)
        self.network.prune_intermediate_layers(self.levels, prune_head=True)  # type: ignore[operator]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode images N x 3 x H x W, normalized, as N x C x H' x W' a stage, finest first."""
        found: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
            images, indices=self.levels, intermediates_only=True
        )
        return found
