"""What a run starts from: nothing, an encoder's folder, or a file of others."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.encoders.build import Backbone, build_encoder
from moco.encoders.foreign import read_encoder
from moco.encoders.frozen import load_encoder
from moco.encoders.kinds import Network, ResNet, Stem, network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.errors import MocoError

RANDOM = "random"


@dataclass(frozen=True)
class Start:
    """An encoder's weights with what is needed to use them.

    Attributes:
        network: in training mode, every parameter trainable; not shared.
        kind: which network it is.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        fingerprint: 16 hexadecimal digits of the SHA-256 of the weights.
    """

    network: Backbone
    kind: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


def start_from(source: str, network: Network | None, seed: int) -> Start:
    """Read or draw the weights that a source names.

    Args:
        source: "random"; or an encoder's folder (encoder.safetensors and encoder.json); or a file
            that `moco.encoders.foreign.read_encoder` reads. Files of others are taken to be trained
            with ImageNet's mean and deviation on RGB, as torchvision's and the official ones are.
        network: what it must be; needed for random weights. A file of others with a 3x3 stem does
            not tell its stride, and is "small" unless this says "small-stride2".
        seed: of random weights, which depend on nothing else.

    Raises:
        MocoError: no such file, another network than was asked for, or no readable encoder.
    """
    if source == RANDOM:
        if network is None:
            raise MocoError("'random' leaves the network open; name one")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = build_encoder(network)
        return Start(made, network, IMAGENET_MEAN, IMAGENET_STD, fingerprint(made))
    path = Path(source)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size = None
    if path.is_dir():
        encoder = load_encoder(path)
        weights, found = encoder.backbone.state_dict(), encoder.spec.network
        mean, std, size = encoder.spec.mean, encoder.spec.std, encoder.spec.image_size
    else:
        weights, found = _of_others(path, network)
    if network not in (None, found):
        raise MocoError(f"{source}: is {_words(found)}, not {_words(network)}; name that one, or other weights")
    made = build_encoder(found, image_size=size)
    made.load_state_dict(weights)
    return Start(made, found, mean, std, fingerprint(made))


def _of_others(path: Path, wanted: Network | None) -> tuple[dict[str, Tensor], Network]:
    foreign = read_encoder(path)
    stem: Stem = foreign.stem
    if isinstance(wanted, ResNet) and (stem, wanted.stem) == ("small", "small-stride2"):
        stem = wanted.stem
    return foreign.weights, network_of({"kind": "resnet", "name": foreign.architecture, "stem": stem})


def _words(network: Network | None) -> str:
    assert network is not None
    return f"{network.label} with the stem {network.stem}" if isinstance(network, ResNet) else network.label


def fingerprint(network: nn.Module) -> str:
    """Give 16 hexadecimal digits that change with any value, name or shape of the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
