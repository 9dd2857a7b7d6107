"""From images to proposals: C4 or a pyramid, the anchors, and the head that proposes."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from moco.encoders.stages import stages_of

Features = dict[str, Tensor]
ANCHOR_SIZES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
LEVELS = ("0", "1", "2", "3")
"""The pyramid's levels that regions are taken from; a fifth is for proposals only."""


class LastStage(nn.Module):
    """C4: the features of layer3 (res4) carry the proposals."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.stages = stages_of(network, 3)

    def forward(self, x: Tensor) -> Features:
        return {"0": self.stages(x)[-1]}


class Pyramid(nn.Module):
    """FPN: a pyramid on the features of layer1 … layer4 carries the proposals."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.stages = stages_of(network, 4)
        self.fpn = FeaturePyramidNetwork(self.stages.channels, width, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)

    def forward(self, x: Tensor) -> Features:
        return self.fpn(OrderedDict(zip(LEVELS, self.stages(x), strict=True)))


class Anchors(AnchorGenerator):
    """Anchors with the network's own strides, in float32: bfloat16 has no 500.5."""

    def __init__(self, sizes: Sequence[Sequence[int]], strides: Sequence[int]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (ASPECT_RATIOS,) * len(sizes))
        self.strides = strides

    def forward(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(torch.float32, features[0].device)
        grids = [level.shape[-2:] for level in features]
        anchors = torch.cat(self.grid_anchors(grids, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(images.image_sizes)


class ProposalHead(RPNHead):
    """torchvision's, in float32: the box coder gives boxes the precision of its input."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(features)
        return [level.float() for level in objectness], [level.float() for level in deltas]
