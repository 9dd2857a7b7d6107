"""The stages of a ResNet, one by one."""

import copy

from torch import Tensor, nn

from moco.encoders.resnet import ResNet


class Stages(nn.Module):
    """The first stages of a network, with the features of each.

    Args:
        network: is copied, not used up.
        last: number of the last stage, 1 … 4 (res2 … res5 in Detectron's count).

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
        """Encode images, normalized N x 3 x H x W, as each stage's N x C x H' x W'."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for number in range(1, len(self.strides) + 1):
            x = self.get_submodule(f"layer{number}")(x)
            features.append(x)
        return features
