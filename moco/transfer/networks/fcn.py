"""The fully convolutional network of the paper's semantic segmentation (its appendix)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco.encoders.normalize import normalize
from moco.encoders.resnet import ResNet
from moco.encoders.stages import stages_of
from moco.encoders.start import Start

IGNORED = 255
DILATION, HEAD_DILATION = 2, 6
"""Of the convolutions of layer4, and of the two after it."""


class FCN(nn.Module):
    """FCN-16s: an encoder with a dilated last stage, and a small head (the paper's appendix).

    The 3x3 convolutions of layer4 (conv5) have stride 1, so that the features' stride is 16 with an
    ImageNet stem (half the encoder's with any); networks that are no ResNets keep theirs. Two more
    3x3 convolutions with batch norm, ReLU and a wide dilation follow, and a 1x1 convolution names
    the classes. All parameters are trained. The new layers start from N(0, 0.01), on which batch
    norm lets little depend.

    Args:
        start: its network is copied.
        num_classes: C, background included where the data have one.
        seed: of the new layers.
        width: channels of the two convolutions.
    """

    def __init__(self, start: Start, num_classes: int, seed: int, width: int = 256) -> None:
        super().__init__()
        self.mean, self.std = start.mean, start.std
        self.stages = stages_of(start.network, 4)
        self.stride = self.stages.strides[-1]
        if isinstance(start.network, ResNet):
            self.stride //= 2
            _dilate(self.stages.get_submodule("layer4"))
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for channels in (self.stages.channels[-1], width):
                convolution = nn.Conv2d(channels, width, 3, padding=HEAD_DILATION, dilation=HEAD_DILATION, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            classifier = nn.Conv2d(width, num_classes, 1)
            self.head = nn.Sequential(*layers, classifier)
            for module in self.head:
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01)
        assert classifier.bias is not None
        nn.init.zeros_(classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Segment images, uint8 N x 3 x H x W: logits float32 N x C x H x W."""
        x = self.stages(normalize(images, self.mean, self.std))[-1]
        return enlarge(self.head(x).float(), self.stride, (images.shape[2], images.shape[3]))

    def loss(self, images: Tensor, label_maps: Tensor) -> Tensor:
        """Average cross-entropy over the pixels that have a class; 0 if none has.

        Args:
            images: uint8, N x 3 x H x W.
            label_maps: uint8, N x H x W, 0 … C - 1, or 255 for a pixel that does not count.
        """
        total = F.cross_entropy(self(images), label_maps.long(), ignore_index=IGNORED, reduction="sum")
        return total / (label_maps != IGNORED).sum().clamp(min=1)


def _dilate(stage: nn.Module) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (DILATION, DILATION)


def enlarge(features: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Interpolate features bilinearly; feature (i, j) is that of pixel (stride i, stride j).

    The receptive fields of a ResNet's features are centered there, whatever the size of the image,
    because of how its strided layers are padded. Pixels beyond the last feature take its value.

    Args:
        features: float32, N x C x ⌈H / stride⌉ x ⌈W / stride⌉.
        stride: pixels between features.
        size: H and W.
    """
    rows, columns = (stride * (count - 1) + 1 for count in features.shape[2:])
    x = F.interpolate(features, (rows, columns), mode="bilinear", align_corners=True)
    return F.pad(x, (0, size[1] - columns, 0, size[0] - rows), mode="replicate")
