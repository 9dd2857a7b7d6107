"""The official MoCo file: {epoch, arch, state_dict, optimizer}, as its own scripts write it.

Its linear script keeps `module.encoder_q.*` but `fc`; after its first epoch it looks up every entry
of its own network but `fc`, counters of batch norm included, in the file. Its pretraining script
resumes from the whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.encoders.export.library import of_library
from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target, plain_resnet, saved
from moco.encoders.frozen import FrozenEncoder
from moco.encoders.kinds import network_of
from moco.errors import MocoError

QUERY, KEY = "module.encoder_q.", "module.encoder_k."
_NAME = "the official file"
_HEADS = ({"weight", "bias"}, {"0.weight", "0.bias", "2.weight", "2.bias"})
"""Entries of the heads of v1 and v2, which are there called fc."""


def write(source: Source, path: Path) -> None:
    """Write the file; an encoder alone has neither head, key encoder, queue nor optimizer."""
    network = plain_resnet(source, _NAME)
    theirs = of_library("torchvision", source, _NAME)
    state = {QUERY + name: value for name, value in source.weights.items()}
    content: dict[str, Any] = {"epoch": 0, "arch": network.name, "state_dict": state}
    if source.checkpoint is not None:
        model = source.checkpoint["model"]
        _check(source, model)
        state |= _renamed(model, "encoder_q.", QUERY) | _renamed(model, "dictionary.encoder_k.", KEY)
        state["module.queue"] = model["dictionary.keys"].float().T.contiguous()  # a key a column
        state["module.queue_ptr"] = model["dictionary.pointer"].reshape(1).clone()
        content["epoch"] = int(source.checkpoint["epoch"])
        if _is_sgd(source):
            content["optimizer"] = _optimizer(source, [name for name, _ in theirs.named_parameters()], state)
    saved(content, path)


def read(source: Source, path: Path) -> Features:
    """Load the file by the rules of the official linear script."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    network = network_of({"kind": "torchvision", "name": content["arch"]}).build()
    state = content["state_dict"]
    kept = {name.removeprefix(QUERY): value for name, value in state.items() if name.startswith(QUERY)}
    network.load_state_dict({name: value for name, value in kept.items() if not name.startswith("fc")})
    return FrozenEncoder(network, source.spec).embed


def how(source: Source, path: Path) -> str:
    """Name the scripts that load the file, and what it lacks."""
    arch = source.spec.network.name
    linear = f"python main_lincls.py -a {arch} --pretrained {path}"
    if source.checkpoint is None:
        return f"{linear} (to resume, export a run's checkpoint: it alone has head, key encoder, queue and optimizer)"
    model = source.checkpoint["model"]
    K, dim = model["dictionary.keys"].shape
    options = f"--moco-k {K} --moco-dim {dim}" + " --mlp" * ("encoder_q.head.0.weight" in model)
    without = "" if _is_sgd(source) else " (without the optimizer, which there is SGD over all parameters)"
    return f"{linear}, or main_moco.py -a {arch} {options} --resume {path}{without}"


def _check(source: Source, model: Mapping[str, Tensor]) -> None:
    """Refuse what the official network has no place for."""
    remedy = "export the encoder's folder, which is the backbone alone"
    if "dictionary.keys" not in model or not any(name.startswith("dictionary.encoder_k.") for name in model):
        raise MocoError(
            f"{source.path}: has no queue with a key encoder, which the official file holds (its dictionary.kind is"
            f" {source.checkpoint['settings']['dictionary']['kind']}); {remedy}"  # type: ignore[index]
        )
    head = {name.removeprefix("encoder_q.head.") for name in model if name.startswith("encoder_q.head.")}
    if head not in _HEADS or any(name.startswith("encoder_q.predictor.") for name in model):
        raise MocoError(
            f"{source.path}: its head is neither v1's nor v2's, which the official file holds (head ="
            f" {source.checkpoint['settings']['head']}); {remedy}"  # type: ignore[index]
        )


def _renamed(model: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """Give an encoder of a run in the official names: the backbone's its own, the head's fc."""
    found = {}
    for place, there in ((f"{ours}backbone.", theirs), (f"{ours}head.", f"{theirs}fc.")):
        for name, value in model.items():
            if name.startswith(place):
                found[there + name.removeprefix(place)] = value.contiguous()
    return found


def _is_sgd(source: Source) -> bool:
    """Tell whether a run's optimizer is the official one: SGD, one group, of every parameter."""
    assert source.checkpoint is not None
    settings, groups = source.checkpoint["settings"], source.checkpoint["optimizer"]["param_groups"]
    kind = settings["optimizer"]["kind"] if isinstance(settings.get("optimizer"), Mapping) else "sgd"  # version 0.2
    return kind == "sgd" and len(groups) == 1 and not getattr(source.spec.network, "freeze", ())


def _optimizer(source: Source, order: list[str], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give the optimizer's state as torch saves it for the official network.

    That network's parameters are the query encoder's in torchvision's order, the head's, then the
    key encoder's, which have no state. Ours are looked up by name, so that no order is assumed.

    Args:
        source: with a checkpoint.
        order: torchvision's names of the backbone's parameters.
        state: of the file.
    """
    assert source.checkpoint is not None
    ours, model = source.checkpoint["optimizer"], source.checkpoint["model"]
    head = [name.removeprefix("encoder_q.head.") for name in model if name.startswith("encoder_q.head.")]
    own = [name for name, _ in source.encoder.backbone.named_parameters()] + [f"fc.{name}" for name in head]
    place = {name: number for number, name in enumerate(own)}
    names = [*order, *(name for name in own if name.startswith("fc."))]
    saved = {}
    for number, name in enumerate(names):
        buffer = ours["state"].get(place[name], {}).get("momentum_buffer")
        if buffer is None:
            continue
        if buffer.shape != state[QUERY + name].shape:
            raise MocoError(
                f"{source.path}: its optimizer has {tuple(buffer.shape)} for {name}, which is"
                f" {tuple(state[QUERY + name].shape)}; export another checkpoint"
            )
        saved[number] = {"momentum_buffer": buffer.contiguous()}
    group = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1).state_dict()["param_groups"][0]
    mine = ours["param_groups"][0]
    group |= {name: float(mine[name]) for name in ("lr", "momentum", "dampening", "weight_decay")}
    group |= {"nesterov": bool(mine["nesterov"]), "params": list(range(2 * len(names)))}
    return {"state": saved, "param_groups": [group]}


TARGET = Target((".tar", ".pth", ".pt"), write, read, how)
