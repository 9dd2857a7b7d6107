"""State dicts of torchvision's and timm's own networks, without the classifier."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target, no_place, plain_resnet, saved
from moco.encoders.frozen import FrozenEncoder
from moco.encoders.kinds import Network, network_of
from moco.encoders.others import classifier_of, names, timm_options, torchvision_options
from moco.errors import MocoError

Library = Literal["torchvision", "timm"]


def of_library(library: Library, source: Source, target: str | None = None) -> nn.Module:
    """Make a library's own network with a source's weights, loaded strictly.

    Args:
        library: whose.
        source: of the weights.
        target: named in errors; None: the library.

    Raises:
        MocoError: the library has no such network, or one with other weights.
    """
    made = _theirs(library, _network(library, source, target or library), source.spec.image_size)
    try:
        made.load_state_dict(source.weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()[:160]
        raise MocoError(
            f"{source.path}: {source.label} has other weights than {library}'s own ({first}); take --to safetensors,"
            " which holds any network"
        ) from None
    return made


def _network(library: Library, source: Source, target: str) -> Network:
    """Find the network of a library that a source is, with the options it was made with."""
    own = source.spec.network
    if own.kind == library and target == library:
        return own
    name = plain_resnet(source, target).name
    if name not in names(library):
        raise no_place(source, target)
    return network_of({"kind": library, "name": name})


def _theirs(library: Library, network: Network, image_size: int) -> nn.Module:
    """Make a library's network by its own calls, as `_how` says them."""
    with torch.random.fork_rng(devices=[]):
        if library == "timm":
            import timm

            options = timm_options(network, image_size)
            made: nn.Module = timm.create_model(network.name, num_classes=0, **options)
            return made
        import torchvision

        builder = torchvision.models.get_model_builder(network.name)
        made = builder(**torchvision_options(network, image_size))
    made.set_submodule(str(classifier_of(made)), nn.Identity())
    return made


def write(library: Library, source: Source, path: Path) -> None:
    """Write the state dict, once it is seen to load strictly into the library's own network."""
    made = of_library(library, source)
    saved({name: value.contiguous() for name, value in made.state_dict().items()}, path)


def read(library: Library, source: Source, path: Path) -> Features:
    """Load the file into the library's own network, strictly."""
    made = _theirs(library, _network(library, source, library), source.spec.image_size)
    made.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return FrozenEncoder(made, source.spec).embed


def how_torchvision(source: Source, path: Path) -> str:
    """Say which layer is taken off before the weights are loaded."""
    import torchvision

    network = _network("torchvision", source, "torchvision")
    options = torchvision_options(network, source.spec.image_size)
    last = str(classifier_of(torchvision.models.get_model_builder(network.name)(**options)))
    place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in last.split("."))
    return (
        f"model = torchvision.models.{network.name}({_words(options)}); model{place} = torch.nn.Identity();"
        f' model.load_state_dict(torch.load("{path}"))'
    )


def how_timm(source: Source, path: Path) -> str:
    """Say which call makes timm's network with these weights."""
    network = _network("timm", source, "timm")
    options = {"num_classes": 0} | timm_options(network, source.spec.image_size)
    return f'model = timm.create_model("{network.name}", {_words(options)}, checkpoint_path="{path}")'


def _words(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


TORCHVISION = Target((".pth", ".pt"), partial(write, "torchvision"), partial(read, "torchvision"), how_torchvision)
TIMM = Target((".pth", ".pt"), partial(write, "timm"), partial(read, "timm"), how_timm)
