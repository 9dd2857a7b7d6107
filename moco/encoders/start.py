"""What a run starts from: nothing, an encoder's folder, or a file of others."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from moco.encoders.build import Backbone, build_encoder
from moco.encoders.files.checkpoint import Checkpoint
from moco.encoders.files.describe import in_one_line
from moco.encoders.files.reading import read
from moco.encoders.frozen import load_encoder
from moco.encoders.kinds import Network, ResNet
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.stem import stem_of
from moco.errors import MocoError

RANDOM = "random"
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Start:
    """An encoder's weights with what is needed to use them.

    Attributes:
        network: in training mode, every parameter trainable; not shared.
        kind: which network it is.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
        fingerprint: 16 hexadecimal digits of the SHA-256 of the weights.
        image_size: side of the images it was trained on, pixels, if a file says.
        eval_crop_ratio: share of the short side that the center view keeps, if a file says.
        about: what was read of a file and what was not, one line; empty without a file.
    """

    network: Backbone
    kind: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    image_size: int | None = None
    eval_crop_ratio: float | None = None
    about: str = ""


def start_from(
    source: str, network: Network | None, seed: int, stated: str | None = None, otherwise: Network | None = None
) -> Start:
    """Read or draw the weights that a source names.

    Args:
        source: "random"; or an encoder's folder (encoder.safetensors and encoder.json); or a file
            that `moco.encoders.files` reads. A file that does not say its mean and deviation is
            taken to be trained with ImageNet's on RGB, as torchvision's and the official ones are.
        network: what it must be; needed for random weights. A file that does not tell its stem has
            this one's, if the first convolution fits.
        seed: of random weights, which depend on nothing else.
        stated: what the stem of a file is, where a person knows better than its names.
        otherwise: what a file is of that does not tell its network, and needs not be of it if it
            does.

    Raises:
        MocoError: no such file, another network than was asked for, or no readable encoder.
    """
    if source == RANDOM:
        if network is None:
            raise MocoError("'random' leaves the network open; name one")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = build_encoder(network).requires_grad_(True)
        return Start(made, network, IMAGENET_MEAN, IMAGENET_STD, fingerprint(made))
    path = Path(source)
    if path.is_dir():
        encoder = load_encoder(path)
        spec = encoder.spec
        if network not in (None, spec.network):
            raise _another(source, spec.network, network)
        made = spec.build().requires_grad_(True)  # what pretraining froze is fine-tuned
        made.load_state_dict(encoder.backbone.state_dict())
        return Start(made, spec.network, spec.mean, spec.std, fingerprint(made), spec.image_size, spec.eval_crop_ratio)
    found = read_as(path, network, stated, otherwise)
    made = loaded(found).requires_grad_(True)
    assert found.network is not None
    return Start(
        made,
        found.network,
        found.mean or IMAGENET_MEAN,
        found.std or IMAGENET_STD,
        fingerprint(made),
        found.image_size,
        found.eval_crop_ratio,
        in_one_line(found),
    )


def read_as(
    path: Path, network: Network | None, stated: str | None = None, otherwise: Network | None = None
) -> Checkpoint:
    """Read a file of weights that must be of a network.

    Args:
        path: the file.
        network: which; None: any that can be told.
        stated: as for `start_from`.
        otherwise: as for `start_from`.

    Returns:
        With its network, and without the classifier of a library's network.

    Raises:
        MocoError: no readable file, one of another network, or of one that nobody tells.
    """
    found = read(path, stated)
    if found.architecture is None:
        held = network or found.network or otherwise
        if held is None or isinstance(held, ResNet):
            raise MocoError(
                f"{path}: fits none of the known architectures ({found.layout}); {found.difference}; `moco encoders` lists"
                " them; name the network of another library that it is of (moco embed: --network; transfer: random)"
            )
        return _without_classifier(found, held)
    asked = network or otherwise
    if isinstance(asked, ResNet) and not found.stem_known and found.architecture == asked.name:
        stem = stem_of(asked.stem)
        if stem.kernel == stem_of(str(found.stem)).kernel:
            found = read(path, stem)
    assert found.network is not None
    if network is not None and network != found.network:
        if not isinstance(network, ResNet) and network.name == found.architecture:
            return replace(found, network=network)  # a library's network with the names of ours
        raise _another(str(path), found.network, network)
    return found


def _without_classifier(found: Checkpoint, network: Network) -> Checkpoint:
    from moco.encoders.others import classifiers

    ends = tuple(f"{name}." for name in classifiers(network))
    ended = tuple(name for name in found.backbone if name.startswith(ends)) if ends else ()
    kept = {name: value for name, value in found.backbone.items() if name not in ended}
    return replace(found, network=network, backbone=kept, unused=(*found.unused, *ended))


def loaded(found: Checkpoint) -> Backbone:
    """Build the network of a file that `read_as` read, with its weights.

    Raises:
        MocoError: they do not fit.
    """
    assert found.network is not None
    made = build_encoder(found.network, image_size=found.image_size)
    load_exactly(made, found, found.network)
    return made


def load_exactly(backbone: nn.Module, found: Checkpoint, network: Network) -> None:
    """Load a file's weights into a network; norms that count no batches get counters of 0.

    Raises:
        MocoError: a weight is missing, unexpected or of another shape; nothing was loaded.
    """
    own = backbone.state_dict()
    weights = {name: value for name, value in found.backbone.items() if name in own or not name.endswith(_COUNTER)}
    for name, value in own.items():
        if name.endswith(_COUNTER):  # absent from old files
            weights.setdefault(name, torch.zeros_like(value))
    for name in (*own, *weights):
        if name not in weights or name not in own or own[name].shape != weights[name].shape:
            what = "is missing" if name not in weights else "is unexpected" if name not in own else "has another shape"
            raise MocoError(f"{found.path}: is no {network.words}: {name} {what}; name the network that it is of")
    backbone.load_state_dict(weights)


def _another(source: str, held: Network, wanted: Network | None) -> MocoError:
    assert wanted is not None
    return MocoError(f"{source}: is {held.words}, not {wanted.words}; name that one, or other weights")


def fingerprint(network: nn.Module) -> str:
    """Give 16 hexadecimal digits that change with any value, name or shape of the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
