"""What a run starts from: nothing, an encoder's folder, or a file of weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.encoders.build import build_encoder
from moco.encoders.files.describe import in_one_line
from moco.encoders.files.reading import read
from moco.encoders.frozen import load_encoder
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.encoders.stem import stem_of
from moco.errors import MocoError

RANDOM = "random"


@dataclass(frozen=True)
class Start:
    """An encoder's weights with what is needed to use them.

    Attributes:
        network: in training mode, every parameter trainable; not shared.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        fingerprint: 16 hexadecimal digits of the SHA-256 of the weights.
        image_size: side of the images it was trained on, pixels, if a file says.
        eval_crop_ratio: share of the short side that the center view keeps, if a file says.
        about: what was read of a file and what was not, one line; empty without a file.
    """

    network: ResNet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    image_size: int | None = None
    eval_crop_ratio: float | None = None
    about: str = ""


def start_from(source: str, architecture: str | None, stem: str | None, seed: int, stated: str | None = None) -> Start:
    """Read or draw the weights that a source names.

    Args:
        source: "random"; or an encoder's folder (encoder.safetensors and encoder.json); or a file
            that `moco.encoders.files` reads. A file that does not say its mean and deviation is
            taken to be trained with ImageNet's on RGB, as torchvision's and the official ones are.
        architecture: what the network must be; needed for random weights.
        stem: what its stem must be; needed for random weights. A file that does not tell its stem
            has this one, if the first convolution fits.
        seed: of random weights, which depend on nothing else.
        stated: what the stem of a file is, where a person knows better than its names.

    Raises:
        MocoError: no such file, another architecture or stem than was asked for, or no readable
            encoder.
    """
    for text in (stem, stated):
        stem_of(text or "imagenet")
    if source == RANDOM:
        if architecture is None or stem is None:
            raise MocoError("'random' leaves the network open; name an architecture and a stem too")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_encoder(architecture, stem)
        return Start(network, IMAGENET_MEAN, IMAGENET_STD, fingerprint(network))
    path = Path(source)
    if path.is_dir():
        encoder = load_encoder(path)
        spec = encoder.spec
        network = _fitting(source, spec.architecture, spec.stem, architecture, stem, encoder.backbone.state_dict())
        return Start(network, spec.mean, spec.std, fingerprint(network), spec.image_size, spec.eval_crop_ratio)
    found = read(path, stated)
    if found.architecture is None or found.stem is None:
        raise MocoError(
            f"{path}: fits none of the known architectures ({found.layout}); {found.difference}; `moco encoders` lists them"
        )
    asked = stem_of(stem) if stem is not None else None
    if asked is not None and not found.stem_known and asked.kernel == stem_of(found.stem).kernel:
        found = read(path, asked)
    assert found.architecture is not None
    network = _fitting(source, found.architecture, str(found.stem), architecture, stem, found.backbone)
    return Start(
        network,
        found.mean or IMAGENET_MEAN,
        found.std or IMAGENET_STD,
        fingerprint(network),
        found.image_size,
        found.eval_crop_ratio,
        in_one_line(found),
    )


def _fitting(
    source: str, found: str, found_stem: str, architecture: str | None, stem: str | None, weights: dict[str, Tensor]
) -> ResNet:
    """Build the network of some weights, which must be the one that was asked for."""
    asked = None if stem is None else str(stem_of(stem))
    for what, wanted, held in (("architecture", architecture, found), ("stem", asked, found_stem)):
        if wanted not in (None, held):
            raise MocoError(f"{source}: its {what} is {held}, not {wanted}; set {what} to {held} or leave it out")
    network = build_encoder(found, found_stem)
    network.load_state_dict(weights)
    return network


def fingerprint(network: nn.Module) -> str:
    """Give 16 hexadecimal digits that change with any value, name or shape of the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
