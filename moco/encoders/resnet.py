"""The encoders: the ResNet family, and the encoder's file.

Parameter names are torchvision's, so that state dicts travel both ways.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from moco.encoders.batch_norm import GroupBatchNorm2d
from moco.encoders.stem import STEMS, Stem, stem_of

__all__ = ["ARCHITECTURES", "STEMS", "Architecture", "ResNet", "Stem"]
Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """One member of the family.

    Attributes:
        blocks: residual blocks in each of the stages.
        bottleneck: 1x1, 3x3, 1x1 blocks with four times the channels at their end; else two 3x3.
        width: multiple of the 64 channels of the first stage (the paper's w2x and w4x widen every
            layer).
        groups: groups of the 3x3 convolution (ResNeXt).
        group_width: channels a group in the first stage, for a bottleneck.
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    width: float = 1.0
    groups: int = 1
    group_width: int = 64


ARCHITECTURES: dict[str, Architecture] = {
    "thin": Architecture((1, 1, 1, 1), bottleneck=False, width=0.5),  # 32 channels: small images on a CPU
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), bottleneck=True),
    "resnet50w2": Architecture((3, 4, 6, 3), bottleneck=True, width=2),
    "resnet50w4": Architecture((3, 4, 6, 3), bottleneck=True, width=4),
    "wide_resnet50_2": Architecture((3, 4, 6, 3), bottleneck=True, group_width=128),  # 3x3 convolutions alone
    "wide_resnet101_2": Architecture((3, 4, 23, 3), bottleneck=True, group_width=128),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), bottleneck=True, groups=32, group_width=4),
    "resnext50_32x8d": Architecture((3, 4, 6, 3), bottleneck=True, groups=32, group_width=8),
    "resnext101_32x8d": Architecture((3, 4, 23, 3), bottleneck=True, groups=32, group_width=8),
    "resnext101_64x4d": Architecture((3, 4, 23, 3), bottleneck=True, groups=64, group_width=4),
}


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

    def stages(self, last: int) -> "Stages":
        """Give a copy of stages 1 … `last` (res2 … res5) that gives each one's features."""
        return Stages(self, last)


class Stages(nn.Module):
    """The first stages of a network; each hands out its features.

    Args:
        network: is copied, not used up.
        last: number of the last stage, 1 … 4.

    Attributes:
        channels: of each stage's output.
        strides: of each stage's output, in pixels of the image.
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
