"""What a person reads of a file of weights: `moco inspect`, and one line where it is used."""

from collections.abc import Mapping

from torch import Tensor

from moco.encoders.build import size_of
from moco.encoders.files.checkpoint import Checkpoint
from moco.encoders.stem import Stem, stem_of
from moco.errors import MocoError
from moco.files import readable

_FAMILIES = (
    ("patch_embed.proj.weight", "blocks.", "a vision transformer by timm's names"),
    ("conv_proj.weight", "encoder.layers.", "a vision transformer by torchvision's names"),
    (
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.",
        "a vision transformer by the names of transformers",
    ),
)
"""Of networks that are no ResNets: the first layer, where the blocks are, and what to call them."""


def described(found: Checkpoint) -> list[str]:
    """Say line by line what a file holds, what was changed and what cannot be told."""
    lines = [("file", f"{found.path}, {readable(found.size)}"), ("layout", found.layout), *_network(found)]
    if found.head:
        lines.append(("head", _layers(found.head)))
    if found.predictor:
        lines.append(("predictor", _layers(found.predictor)))
    if found.key_backbone:
        lines.append(("key encoder", "there, with its head" if found.key_head else "there, without a head"))
    if found.queue is not None:
        K, C = found.queue.shape
        place = "" if found.pointer is None else f", the next key goes to {found.pointer}"
        real = "" if found.filled == K else f", {found.filled} of them real"
        lines.append(("queue", f"{K} keys of {C} numbers{real}{place}"))
    if found.optimizer:
        lines.append(("optimizer", f"{found.optimizer_kind.upper()}'s momentum of {len(found.optimizer)} parameters"))
    if found.epoch is not None:
        lines.append(("epoch", str(found.epoch)))
    for what, value in (("mean", found.mean), ("deviation", found.std)):
        if value is not None:
            lines.append((what, ", ".join(f"{number:g}" for number in value)))
    if found.image_size is not None:
        lines.append(("image size", f"{found.image_size} pixels"))
    lines += [("note", note) for note in found.notes]
    lines.append(("unused", ", ".join(groups(found.unused)) or "nothing"))
    lines += [("cannot tell", sentence) for sentence in found.cannot_tell]
    return [f"{what:<12} {text}" for what, text in lines]


def in_one_line(found: Checkpoint) -> str:
    """Say what was read and what was not, for whoever uses a file."""
    epoch = f", epoch {found.epoch}" if found.epoch is not None else ""
    network = found.network.words if found.network else "a network of another library"
    said = [f"{found.layout}: {network}{epoch}", *found.notes]
    if found.unused:
        said.append(f"unused: {', '.join(groups(found.unused))}")
    said += [sentence.rstrip(".") for sentence in found.cannot_tell]
    if found.mean is None or found.std is None:
        said.append("mean and deviation are taken to be ImageNet's, for the file does not say them")
    return "; ".join(said)


def groups(keys: tuple[str, ...]) -> list[str]:
    """Count keys by the part of the file that they are of: fc.* (2), queue."""
    counts: dict[str, list[str]] = {}
    for key in keys:
        counts.setdefault(key.partition(".")[0], []).append(key)
    return [f"{group}.* ({len(held)})" if len(held) > 1 else held[0] for group, held in counts.items()]


def with_stem(found: Checkpoint, stride: int | None, padding: int | None, pool: bool | None) -> Stem | None:
    """Give the stem that a person states, with what they leave out as it was read; None: nothing.

    Raises:
        MocoError: the file holds no ResNet of ours.
    """
    if (stride, padding, pool) == (None, None, None):
        return None
    if found.stem is None:
        raise MocoError(f"{found.path}: holds no ResNet, so that no stem can be stated; leave it out")
    held = stem_of(found.stem)
    return Stem(
        held.kernel,
        held.stride if stride is None else stride,
        held.padding if padding is None else padding,
        held.pool if pool is None else pool,
    )


def _network(found: Checkpoint) -> list[tuple[str, str]]:
    if found.architecture is None or found.stem is None:
        count = sum(value.numel() for value in found.backbone.values())
        size = f"{len(found.backbone)} tensors, {count / 1e6:.1f} M numbers"
        return [("network", f"{_family(found.backbone)} ({found.difference}): {size}")]
    weights, features = size_of(found.architecture)
    stem = stem_of(found.stem)
    pool = "max-pooling" if stem.pool else "no max-pooling"
    words = f"{stem.kernel}x{stem.kernel}, stride {stem.stride}, padding {stem.padding}, {pool}"
    return [
        ("network", f"{found.architecture}: {weights / 1e6:.1f} M weights, {features} features"),
        ("stem", f"{stem}: {words}" if str(stem) == found.stem else words),
    ]


def _family(weights: Mapping[str, Tensor]) -> str:
    """Say what kind of network some weights are of, by the names that its library gives."""
    for mark, inner, words in _FAMILIES:
        if mark in weights:
            depth = {name.removeprefix(inner).partition(".")[0] for name in weights if name.startswith(inner)}
            return f"{words}, {len(depth)} blocks of width {len(weights[mark])}"
    return "no ResNet that `moco encoders` lists"


def _layers(head: Mapping[str, Tensor]) -> str:
    """Write the sizes between a head's layers: 2048 -> 2048 -> 128."""
    layers = [value for name, value in head.items() if name.endswith("weight") and value.dim() == 2]
    if not layers:
        return f"{len(head)} tensors"
    norms = " with batch norm" if any(name.endswith("running_var") for name in head) else ""
    return " -> ".join(map(str, [layers[0].shape[1], *(len(layer) for layer in layers)])) + norms
