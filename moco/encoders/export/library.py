"""State dicts of torchvision's and timm's own networks, without the classifier."""

from functools import partial
from pathlib import Path
from typing import Literal

import torch

from moco.encoders.build import Backbone, build_encoder
from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target, plain_resnet
from moco.encoders.frozen import FrozenEncoder
from moco.encoders.kinds import Network, network_of
from moco.errors import MocoError

Library = Literal["torchvision", "timm"]


def from_torchvision(name: str, source: Source) -> Backbone:
    """Build torchvision's network of a name with a source's weights, strictly.

    Raises:
        MocoError: torchvision has no such network, or one with other weights.
    """
    return _theirs("torchvision", network_of({"kind": "torchvision", "name": name}), source)


def _network(library: Library, source: Source) -> Network:
    """Find the network of a library that a source is, with the options it was made with."""
    own = source.spec.network
    return own if own.kind == library else network_of({"kind": library, "name": plain_resnet(source, library).name})


def _theirs(library: Library, network: Network, source: Source) -> Backbone:
    try:
        with torch.random.fork_rng(devices=[]):
            made = build_encoder(network, image_size=source.spec.image_size)
        made.load_state_dict(source.weights)
    except MocoError as error:
        raise MocoError(f"{source.path}: cannot be exported to {library}: {error}") from None
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()[:160]
        raise MocoError(
            f"{source.path}: {source.label} has other weights than {library}'s {network.name} ({first}); take --to"
            " safetensors, which holds any network"
        ) from None
    return made


def write(library: Library, source: Source, path: Path) -> None:
    """Write the state dict, once it is seen to load strictly into the library's own network."""
    made = _theirs(library, _network(library, source), source)
    with path.open("wb") as file:
        torch.save({name: value.contiguous() for name, value in made.state_dict().items()}, file)


def read(library: Library, source: Source, path: Path) -> Features:
    """Load the file into the library's own network, strictly."""
    with torch.random.fork_rng(devices=[]):
        made = build_encoder(_network(library, source), image_size=source.spec.image_size)
    made.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return FrozenEncoder(made, source.spec).embed


def how_torchvision(source: Source, path: Path) -> str:
    """Say which layer is taken off before the weights are loaded."""
    import torchvision

    network = _network("torchvision", source)
    options = "".join(f"{name}={value!r}, " for name, value in getattr(network, "options", {}).items()).rstrip(", ")
    plain = torchvision.models.get_model_builder(network.name)(**getattr(network, "options", {})).state_dict()
    own = source.encoder.backbone.state_dict()
    last = [name.rpartition(".")[0] for name in plain if name not in own][-1]
    place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in last.split("."))
    return (
        f"model = torchvision.models.{network.name}({options}); model{place} = torch.nn.Identity();"
        f' model.load_state_dict(torch.load("{path}"))'
    )


def how_timm(source: Source, path: Path) -> str:
    """Say which call makes timm's network with these weights."""
    network = _network("timm", source)
    options = "".join(f", {name}={value!r}" for name, value in getattr(network, "options", {}).items())
    return f'timm.create_model("{network.name}", num_classes=0{options}, checkpoint_path="{path}")'


TORCHVISION = Target((".pth", ".pt"), partial(write, "torchvision"), partial(read, "torchvision"), how_torchvision)
TIMM = Target((".pth", ".pt"), partial(write, "timm"), partial(read, "timm"), how_timm)
