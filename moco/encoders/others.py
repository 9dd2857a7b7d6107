"""Networks of timm, of torchvision and of your own, as encoders."""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from moco.encoders.encode import features_of
from moco.encoders.kinds import Network, look_here
from moco.errors import MocoError, first_line


def build(settings: Network, image_size: int | None = None, pretrained: bool = False) -> nn.Module:
    """Make a network without its classifier, for images of one size where it is made for one.

    Args:
        settings: which.
        image_size: side of the images, pixels.
        pretrained: whether its library loads the weights that it publishes; else fresh ones.

    Raises:
        MocoError: the library or the network is not there, or cannot be made.
    """
    make = {"timm": _timm, "torchvision": _torchvision, "module": _own}[settings.kind]
    try:
        network = make(settings, image_size, pretrained)
    except MocoError:
        raise
    except Exception as error:  # a library's or a person's own
        raise MocoError(
            f"encoder {settings.label}: cannot be made for images of {image_size} pixels"
            f" ({type(error).__name__}: {first_line(error)[:200]}); choose another network or image_size"
        ) from error
    _freeze(network, settings)
    network.feature_dim = _feature_dim(network, image_size)  # type: ignore[assignment]  # a module takes any attribute
    return network


def names(kind: str) -> list[str]:
    """List what a library can build; `timm` or `torchvision`."""
    if kind == "timm":
        return list(_library().list_models())
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _timm(settings: Network, image_size: int | None, pretrained: bool) -> nn.Module:
    timm, name = _library(), settings.name
    if not timm.is_model(name):
        raise _unknown("timm", name, names("timm"))
    options = timm_options(settings, image_size)
    network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    return network


def timm_options(settings: Network, image_size: int | None) -> dict[str, Any]:
    """Give timm.create_model's options: the size, where a network is made for one."""
    config = _library().get_pretrained_cfg(settings.name)
    fixed = image_size is not None and config is not None and config.fixed_input_size
    return ({"img_size": image_size} if fixed else {}) | _options(settings)


def _library() -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise MocoError("encoder kind timm needs the package timm; install it with `pip install timm`") from None
    return timm


def _torchvision(settings: Network, image_size: int | None, pretrained: bool) -> nn.Module:
    import torchvision

    name = settings.name
    if name not in (known := names("torchvision")):
        raise _unknown("torchvision", name, known)
    builder = torchvision.models.get_model_builder(name)
    options = torchvision_options(settings, image_size, pretrained)
    network: nn.Module = builder(weights="DEFAULT" if pretrained else None, **options)
    if hasattr(network, "aux_logits"):
        network.aux_logits = False  # type: ignore[assignment]
    last = classifier_of(network)
    if last is None:  # squeezenet classifies by a convolution
        raise MocoError(f"encoder torchvision:{name} has no linear classifier to take off; choose another network")
    parent, _, child = last.rpartition(".")
    classifier = network.get_submodule(parent)
    setattr(classifier, child, nn.Identity())
    for module in classifier.children() if isinstance(classifier, nn.Sequential) else ():
        if isinstance(module, nn.Dropout):  # of the classifier
            module.p = 0.0
    return network


def torchvision_options(settings: Network, image_size: int | None, pretrained: bool = False) -> dict[str, Any]:
    """Give what torchvision's builder is told: the size, where it is made for one."""
    import torchvision

    home = torchvision.models.get_model_builder(settings.name).__module__
    options: dict[str, Any] = {}
    if image_size is not None and "vision_transformer" in home:
        options["image_size"] = image_size
    if image_size is not None and "maxvit" in home:
        options["input_size"] = (image_size, image_size)
    if settings.name in ("googlenet", "inception_v3"):
        options |= {"init_weights": True} | ({} if pretrained else {"aux_logits": False})
    return options | _options(settings)


def classifier_of(network: nn.Module) -> str | None:
    """Name the layer of torchvision's network that is taken off: the last linear one."""
    return next((path for path, module in reversed([*network.named_modules()]) if isinstance(module, nn.Linear)), None)


def classifiers(settings: Network) -> tuple[str, ...]:
    """Name the layers of a library's network that its encoder is without: its classifiers.

    Raises:
        MocoError: the library is not there.
    """
    if settings.kind == "timm":
        config = _library().get_pretrained_cfg(settings.name)
        named = getattr(config, "classifier", None) or ()
        return (named,) if isinstance(named, str) else tuple(named)
    if settings.kind == "torchvision":
        import torchvision

        with torch.device("meta"):
            last = classifier_of(torchvision.models.get_model(settings.name, **_options(settings)))
        return () if last is None else (last,)
    return ()


def _own(settings: Network, image_size: int | None, pretrained: bool) -> nn.Module:
    name = settings.name
    file, _, function = name.partition(":")
    look_here()
    try:
        make = getattr(importlib.import_module(file), function)
    except ModuleNotFoundError as error:
        raise MocoError(
            f"encoder module:{name}: there is no module {error.name}; name a file of this folder, or install it"
        ) from None
    except AttributeError:
        raise MocoError(f"encoder module:{name}: {file} has no {function}; name a function of it") from None
    network = make(image_size=image_size) if "image_size" in inspect.signature(make).parameters else make()
    if not isinstance(network, nn.Module):
        raise MocoError(f"encoder module:{name}: gives a {type(network).__name__}, not a torch.nn.Module; return one")
    return network


def _options(settings: Network) -> dict[str, Any]:
    return dict(getattr(settings, "options", {}))


def _feature_dim(network: nn.Module, image_size: int | None) -> int:
    """Count the features by encoding zeros, unless the network says how many they are."""
    if isinstance(stated := getattr(network, "feature_dim", None), int):
        return stated
    side, training = image_size or 224, network.training
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        found = features_of(network.eval(), torch.zeros(2, 3, side, side, device=device))
    network.train(training)
    return found.shape[1]


def _freeze(network: nn.Module, settings: Network) -> None:
    for name in getattr(settings, "freeze", ()):
        try:
            network.get_submodule(name).requires_grad_(False)
        except AttributeError:
            parts = ", ".join(name for name, _ in network.named_children())
            raise MocoError(
                f"encoder.freeze = {name}: {settings.label} has no such part; its parts are {parts}"
            ) from None


def _unknown(library: str, name: str, known: Iterable[str]) -> MocoError:
    near = difflib.get_close_matches(name, known, 3, 0.5)
    like = f"; did you mean {' or '.join(near)}?" if near else ""
    return MocoError(f"encoder {library}:{name} is no network of the {library} installed here{like}")
