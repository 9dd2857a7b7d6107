"""A run's first weights: drawn, of a file, or of a model (`pretrain.init`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.config import Pretrain
from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.dictionary.momentum_queue import MomentumQueue
from moco.encoders.files.checkpoint import Checkpoint
from moco.encoders.files.describe import in_one_line
from moco.encoders.init import File
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.start import load_exactly, read_as
from moco.errors import MocoError
from moco.momentum_contrast import MoCo


@dataclass(frozen=True)
class Beginning:
    """What a run's first weights are.

    Attributes:
        found: a file's content; None: no file.
        published: weights that a library publishes; None: it is not asked for them.
        mean: per-channel mean of values in [0, 1] that the weights are used to.
        std: per-channel deviation likewise.
    """

    found: Checkpoint | None = None
    published: Mapping[str, Tensor] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def beginning_of(settings: Pretrain) -> Beginning:
    """Read what the settings name.

    Raises:
        MocoError: there is nothing of that name, or it is of another network.
    """
    if settings.init.kind == "published":
        return _published(settings)
    place = settings.init.place
    if place is None:
        return Beginning()
    if not place.exists():
        remedy = "name a file that is there" if isinstance(settings.init, File) else "`moco start` fetches it"
        raise MocoError(f"pretrain.init: {place}: no such file or folder; {remedy}")
    found = read_as(Path(place), settings.encoder)
    return Beginning(found, None, found.mean or IMAGENET_MEAN, found.std or IMAGENET_STD)


def _published(settings: Pretrain) -> Beginning:
    from moco.encoders.others import build

    if settings.encoder.kind not in ("timm", "torchvision"):
        raise MocoError(
            f"pretrain.init.kind = published: nobody publishes weights of {settings.encoder.words}; set it to random, or"
            " encoder.kind to timm or torchvision"
        )
    network = build(settings.encoder, settings.image_size, pretrained=True)
    said = getattr(network, "pretrained_cfg", {})  # timm's
    mean, std = (tuple(said.get(name, known)) for name, known in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    return Beginning(None, network.state_dict(), mean, std)


def begin(model: MoCo, optimizer: torch.optim.Optimizer, settings: Pretrain, beginning: Beginning) -> str:
    """Give a new model its first weights; the key encoder starts as the query encoder's copy.

    Args:
        model: with drawn weights.
        optimizer: of the model.
        settings: of the run.
        beginning: what they are.

    Returns:
        One line that says what was used, what was not, and what is drawn; empty for drawn weights.

    Raises:
        MocoError: the weights do not fit the network.
    """
    encoder_q = model.encoder_q
    if beginning.published is not None:
        encoder_q.backbone.load_state_dict(beginning.published)
        _copy_to_keys(model)
        return f"begins with the published weights of {settings.encoder.words}"
    found = beginning.found
    if found is None:
        return ""
    load_exactly(encoder_q.backbone, found, settings.encoder)
    used, drawn, fresh = ["backbone"], list[str](), ""
    everything = isinstance(settings.init, File) and settings.init.parts == "all"
    for name, part, weights in (
        ("head", encoder_q.head, found.head),
        ("predictor", encoder_q.predictor, found.predictor),
    ):
        if part is not None:
            (used if everything and _fits(part, weights) else drawn).append(name)
    _copy_to_keys(model)
    if everything:
        used += _rest(model, found)
        fresh = _momentum(model, optimizer, settings, found)
        used += [] if fresh else ["the optimizer's momentum"]
    left = f"; drawn by the seed: {', '.join(drawn)}" if drawn else ""
    if fresh:
        left += f"; the optimizer starts without a past, for {fresh}"
    return f"begins with {', '.join(used)} of {found.path} ({in_one_line(found)}){left}"


def _rest(model: MoCo, found: Checkpoint) -> list[str]:
    """Load key encoder and queue, as far as they are there and fit."""
    used, dictionary = list[str](), model.dictionary
    if isinstance(dictionary, MomentumEncoder) and found.key_backbone:
        keys = dictionary.encoder_k
        if _fits(keys.backbone, found.key_backbone) and _fits(keys.head, found.key_head):
            used.append("key encoder")
    queue = found.queue
    if isinstance(dictionary, MomentumQueue) and queue is not None and queue.shape == dictionary.keys.shape:
        dictionary.restart(queue, found.pointer or 0, found.filled)
        used.append(f"queue of {found.filled:,} keys")
    return used


def _momentum(model: MoCo, optimizer: torch.optim.Optimizer, settings: Pretrain, found: Checkpoint) -> str:
    """Load the optimizer's momentum, or say why it is not loaded.

    Momentum goes from SGD to SGD and from LARS to LARS: that of LARS sums gradients that were
    scaled layer by layer, and Adam has two moments of another scale.
    """
    kind = settings.optimizer.kind
    if not found.optimizer_kind:
        return "the file has no optimizer's state"
    if kind not in ("sgd", "lars") or kind != found.optimizer_kind:
        return (
            f"the file's state is of {found.optimizer_kind} and pretrain.optimizer.kind = {kind}: momentum goes from sgd to"
            " sgd and from lars to lars"
        )
    named = dict(model.encoder_q.named_parameters())
    buffers = {name: value for name, value in found.optimizer.items() if name in named}
    if not buffers:
        return "the file lists its parameters in an unknown order"
    unlike = next((name for name, value in buffers.items() if named[name].shape != value.shape), None)
    if unlike:
        return f"its momentum has another shape at {unlike}"
    for name, value in buffers.items():
        optimizer.state[named[name]]["momentum_buffer"] = value.to(named[name]).clone()
    return ""


def _fits(part: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Load a part if the weights are exactly its own."""
    own = part.state_dict()
    if own.keys() != weights.keys() or any(own[name].shape != value.shape for name, value in weights.items()):
        return False
    part.load_state_dict(dict(weights))
    return True


def _copy_to_keys(model: MoCo) -> None:
    if isinstance(model.dictionary, MomentumEncoder):
        state = model.encoder_q.state_dict()
        keys = model.dictionary.encoder_k
        keys.load_state_dict({name: state[name] for name in keys.state_dict()})
