"""The stages that detectors and segmenters take from a network."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco.errors import MocoError, first_line

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
    made; torchvision's are known by their families.

    Raises:
        MocoError: the network hands out no stages, or takes images of its own size alone.
    """
    of_library = type(network).__module__.startswith(("timm.", "torchvision."))  # timm's HRNet has stages of its own
    if not of_library and callable(getattr(type(network), "stages", None)):
        own: Stages = network.stages(last)  # type: ignore[operator]
        return own
    try:
        with torch.random.fork_rng(devices=[]):
            found = _taken(network, last)
    except Exception as error:  # a library's own
        said = first_line(error)[:120]
        raise MocoError(
            f"a {type(network).__name__} cannot give stages of images of any size ({said}), which detection and"
            " segmentation need; take a ResNet or a convolutional network of timm"
        ) from None
    if found is None:
        raise MocoError(
            f"a {type(network).__name__} hands out no stages, which detection and segmentation need; take a ResNet or a"
            " convolutional network of timm, or give your own a method stages(last)"
        )
    return found


def _taken(network: nn.Module, last: int) -> Stages | None:
    """Take the stages of a library's network and try them on an oblong image; None: it has none."""
    home, name = type(network).__module__, type(network).__name__
    maps = hasattr(network, "forward_intermediates") and not hasattr(network, "pos_embed")  # a ViT has one size alone
    if maps and len(getattr(network, "feature_info", ())) >= STAGES:
        found: Stages = TimmStages(network, last)
    elif home.startswith("torchvision.models.") and name in _TRUNKS:
        found = TorchvisionStages(network, last)
    else:
        return None
    training = network.training
    found.eval()
    rows, columns = 3 * found.strides[-1] - 1, 5 * found.strides[-1] + 1
    trained = [parameter for parameter in found.parameters() if parameter.requires_grad]
    with torch.set_grad_enabled(bool(trained)):
        maps_of = found(next(found.parameters()).new_zeros(1, 3, rows, columns))
        sums = [seen.sum() for seen in maps_of]
        reached = torch.autograd.grad(sums, trained, allow_unused=True) if trained else ()
    for parameter, gradient in zip(trained, reached, strict=True):
        parameter.requires_grad_(gradient is not None)  # a norm behind the stages would keep peers waiting
    for seen, channels, stride in zip(maps_of, found.channels, found.strides, strict=True):
        if tuple(seen.shape) != (1, channels, -(-rows // stride), -(-columns // stride)):
            raise ValueError(f"{tuple(seen.shape)} at stride {stride}")
    return found.train(training)


class _OfLibrary(Stages):
    """Stages that see images whose sides are multiples of their coarsest stride.

    Some networks round such sides down, and others cannot join their branches.
    """

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode images N x 3 x H x W, normalized, as N x C x H' x W' a stage, finest first."""
        rows, columns = images.shape[2:]
        coarsest = self.strides[-1]
        if rows % coarsest or columns % coarsest:
            images = F.pad(images, (0, -columns % coarsest, 0, -rows % coarsest))  # with the mean color
        sizes = [(-(-rows // stride), -(-columns // stride)) for stride in self.strides]
        return [found[:, :, :h, :w] for found, (h, w) in zip(self.maps(images), sizes, strict=True)]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Encode images whose sides are multiples of the coarsest stride."""
        raise NotImplementedError


class TimmStages(_OfLibrary):
    """The coarsest stages of a network of timm."""

    def __init__(self, network: nn.Module, last: int) -> None:
        super().__init__()
        stages = list(network.feature_info)[-STAGES:][:last]  # type: ignore[arg-type]
        self.levels = [len(network.feature_info) - STAGES + n for n in range(last)]  # type: ignore[arg-type]
        self.channels = [int(stage["num_chs"]) for stage in stages]
        self.strides = [int(stage["reduction"]) for stage in stages]
        self.network = copy.deepcopy(network)
        self.network.prune_intermediate_layers(self.levels, prune_head=True)  # type: ignore[operator]

    def maps(self, images: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
            images, indices=self.levels, intermediates_only=True
        )
        return found


_TRUNKS = {
    "ResNet": "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4",
    "RegNet": "stem trunk_output.*",
    **dict.fromkeys(("ConvNeXt", "EfficientNet", "MobileNetV2", "MobileNetV3", "DenseNet", "VGG"), "features.*"),
}
"""The parts of torchvision's networks that follow one another, up to the pooling; `*`: children."""


class TorchvisionStages(_OfLibrary):
    """The coarsest stages of a network of torchvision: the last parts that give each size."""

    def __init__(self, network: nn.Module, last: int) -> None:
        super().__init__()
        parts = nn.ModuleList()
        for path in _TRUNKS[type(network).__name__].split():
            part = network.get_submodule(path.removesuffix(".*"))
            parts.extend(part.children() if path.endswith("*") else [part])
        self.parts = copy.deepcopy(parts)
        side = 128
        with torch.inference_mode():
            x = next(network.parameters()).new_zeros(1, 3, side, side)
            seen = [(x := part(x)).shape[1:3] for part in copy.deepcopy(parts).eval()]
        last_of = {side // rows: (n, channels) for n, (channels, rows) in enumerate(seen)}  # later ones replace earlier
        self.strides = sorted(last_of)[-STAGES:][:last]
        self.ends, self.channels = ([last_of[stride][part] for stride in self.strides] for part in (0, 1))
        del self.parts[self.ends[-1] + 1 :]

    def maps(self, images: Tensor) -> list[Tensor]:
        found, x = [], images
        for number, part in enumerate(self.parts):
            x = part(x)
            if number in self.ends:
                found.append(x)
        return found
