"""What a run starts from: nothing, an encoder's folder, or a file of others."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from moco.encoders.build import build_encoder
from moco.encoders.foreign import read_encoder
from moco.encoders.frozen import load_encoder
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError

RANDOM = "random"
STEMS = ("imagenet", "small", "small-stride2")


@dataclass(frozen=True)
class Start:
    """An encoder's weights with what is needed to use them.

    Attributes:
        network: in training mode, every parameter trainable; not shared.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        fingerprint: 16 hexadecimal digits of the SHA-256 of the weights.
    """

    network: ResNet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


def start_from(source: str, architecture: str | None, stem: str | None, seed: int) -> Start:
    """Read or draw the weights that a source names.

    Args:
        source: "random"; or an encoder's folder (encoder.safetensors and encoder.json); or a file
            that `moco.encoders.foreign.read_encoder` reads. Files of others are taken to be trained
            with ImageNet's mean and deviation on RGB, as torchvision's and the official ones are.
        architecture: what the network must be; needed for random weights.
        stem: what its stem must be; needed for random weights. A file of others with a 3x3 stem
            does not tell its stride, and is "small" unless "small-stride2" is asked for.
        seed: of random weights, which depend on nothing else.

    Raises:
        MocoError: no such file, another architecture or stem than was asked for, or no readable
            encoder.
    """
    if stem is not None and stem not in STEMS:
        raise MocoError(f"stem = {stem!r} is no known stem; choose one of {', '.join(STEMS)}")
    if source == RANDOM:
        if architecture is None or stem is None:
            raise MocoError("'random' leaves the network open; name an architecture and a stem too")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_encoder(architecture, stem)
        return Start(network, IMAGENET_MEAN, IMAGENET_STD, fingerprint(network))
    path = Path(source)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if path.is_dir():
        encoder = load_encoder(path)
        weights = encoder.backbone.state_dict()
        found, found_stem = encoder.spec.architecture, encoder.spec.stem
        mean, std = encoder.spec.mean, encoder.spec.std
    else:
        foreign = read_encoder(path)
        weights, found, found_stem = foreign.weights, foreign.architecture, foreign.stem
        if found_stem == "small" and stem == "small-stride2":
            found_stem = stem
    for what, wanted, held in (("architecture", architecture, found), ("stem", stem, found_stem)):
        if wanted not in (None, held):
            raise MocoError(f"{source}: its {what} is {held}, not {wanted}; set {what} to {held} or leave it out")
    network = build_encoder(found, found_stem)
    network.load_state_dict(weights)
    return Start(network, mean, std, fingerprint(network))


def fingerprint(network: nn.Module) -> str:
    """Give 16 hexadecimal digits that change with any value, name or shape of the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
