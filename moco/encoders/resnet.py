"""The ResNet family.

Parameter names are torchvision's, so that state dicts travel both ways.
"""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from moco.encoders import kinds
from moco.encoders.architectures import ARCHITECTURES, Architecture
from moco.encoders.batch_norm import GroupBatchNorm2d
from moco.encoders.stages import Stages
from moco.encoders.stem import STEMS, Stem, stem_of

__all__ = ["ARCHITECTURES", "STEMS", "Architecture", "ResNet", "Stem"]
Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, planes: int, stride: int, architecture: Architecture, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, planes: int, stride: int, architecture: Architecture, norm: Norm) -> None:
        super().__init__()
        inner = planes * architecture.group_width // 64 * architecture.groups
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = norm(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=architecture.groups, bias=False)
        self.bn2 = norm(inner)
        self.conv3 = nn.Conv2d(inner, planes * self.expansion, 1, bias=False)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, planes * self.expansion, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def _shortcut(channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm(channels_out))


def build(settings: kinds.ResNet, image_size: int | None = None) -> "ResNet":
    """Make a ResNet as settings name it; it encodes images of any size."""
    return ResNet(settings.name, settings.stem)


class ResNet(nn.Module):
    """A residual network without its classifier (He et al., 2015).

    Args:
        name: a key of `ARCHITECTURES`.
        stem: "imagenet" (7x7 stride 2, max-pooling), "small" (3x3 stride 1, no pooling),
            "small-stride2", or any other as a `Stem`.
        bn_group_size: images that share batch-norm statistics in training; None: the whole batch.

    Attributes:
        feature_dim: D, length of the feature vector.
    """

    def __init__(self, name: str, stem: str | Stem = "imagenet", bn_group_size: int | None = None) -> None:
        super().__init__()
        architecture = ARCHITECTURES[name]
        first = stem_of(stem)

        def norm(channels: int) -> nn.Module:
            return GroupBatchNorm2d(channels, bn_group_size)

        block = Bottleneck if architecture.bottleneck else BasicBlock
        planes = round(64 * architecture.width)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(3, planes, first.kernel, first.stride, first.padding, bias=False)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if first.pool else nn.Identity()
        self.bn1 = norm(planes)
        self.depth = len(architecture.blocks)
        channels = planes
        for number, depth in enumerate(architecture.blocks, start=1):
            width = planes * 2 ** (number - 1)
            blocks = []
            for position in range(depth):
                stride = 2 if number > 1 and position == 0 else 1
                blocks.append(block(channels, width, stride, architecture, norm))
                channels = width * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Encode images N x 3 x H x W, normalized, as features N x D."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, self.depth + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.avgpool(x).flatten(1)

    def stages(self, last: int) -> Stages:
        """Give a copy of stages 1 … `last` (res2 … res5) that gives each one's features."""
        return ResNetStages(self, last)


class ResNetStages(Stages):
    """The first stages of a ResNet; each hands out its features.

    Args:
        network: is copied, not used up.
        last: number of the last stage, 1 … 4.
    """

    def __init__(self, network: ResNet, last: int) -> None:
        super().__init__()
        network = copy.deepcopy(network)
        self.conv1, self.bn1, self.relu = network.conv1, network.bn1, network.relu
        self.maxpool = network.maxpool
        stem_stride = self.conv1.stride[0] * (2 if isinstance(self.maxpool, nn.MaxPool2d) else 1)
        self.strides = [stem_stride * 2**number for number in range(last)]
        self.channels = [network.feature_dim // 2 ** (network.depth - number) for number in range(1, last + 1)]
        for number in range(1, last + 1):
            self.add_module(f"layer{number}", network.get_submodule(f"layer{number}"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode images N x 3 x H x W, normalized, as N x C x H' x W' a stage, finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for number in range(1, len(self.strides) + 1):
            x = self.get_submodule(f"layer{number}")(x)
            features.append(x)
        return features
