"""The ResNet family as numbers, without torch: settings and `moco encoders` read it in no time."""

from dataclasses import dataclass


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
