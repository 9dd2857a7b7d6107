"""detectron2's file, as the official converter writes it: a pickle of NumPy arrays."""

import pickle
import re
from pathlib import Path

import torch

from moco.encoders.architectures import ARCHITECTURES
from moco.encoders.build import build_encoder
from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target, plain_resnet
from moco.encoders.frozen import FrozenEncoder

_HEAD = "encoder_q.head."
_BLOCK = (("downsample.0", "shortcut"), ("downsample.1", "shortcut.norm"))


def name_there(name: str) -> str:
    """Translate a name of torchvision's: `layer1.0.bn1.weight` to `res2.0.conv1.norm.weight`."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    for ours, theirs in _BLOCK:
        name = name.replace(ours, theirs)
    return name


def name_here(name: str) -> str:
    """Translate back."""
    for ours, theirs in reversed(_BLOCK):
        name = name.replace(theirs, ours)
    name = re.sub(r"\bconv(\d)\.norm", r"bn\1", name)
    name = re.sub(r"^res(\d)", lambda found: f"layer{int(found[1]) - 1}", name)
    return name.removeprefix("stem.")


def write(source: Source, path: Path) -> None:
    """Write the pickle; from a checkpoint with its head, as `stem.fc`, which detectron2 ignores."""
    plain_resnet(source, "detectron2")
    weights = {name_there(name): value.numpy() for name, value in source.weights.items()}
    model = source.checkpoint["model"] if source.checkpoint is not None else {}
    for name, value in model.items():
        if name.startswith(_HEAD):
            weights[f"stem.fc.{name.removeprefix(_HEAD)}"] = value.contiguous().numpy()
    with path.open("wb") as file:
        pickle.dump({"model": weights, "__author__": "MOCO", "matching_heuristics": True}, file)


def read(source: Source, path: Path) -> Features:
    """Load the arrays by the names of detectron2's network."""
    with path.open("rb") as file:
        model = pickle.load(file)["model"]  # written a moment ago
    weights = {name_here(name): torch.from_numpy(value) for name, value in model.items()}
    with torch.random.fork_rng(devices=[]):
        network = build_encoder(plain_resnet(source, "detectron2"))
    network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")})
    return FrozenEncoder(network, source.spec).embed


def how(source: Source, path: Path) -> str:
    """Give the settings that detectron2 needs with these weights."""
    mean, std = ([round(255 * value, 3) for value in values] for values in (source.spec.mean, source.spec.std))
    about = ARCHITECTURES[plain_resnet(source, "detectron2").name]
    resnets = {"DEPTH": (3 if about.bottleneck else 2) * sum(about.blocks) + 2, "STRIDE_IN_1X1": False}
    if not about.bottleneck:
        resnets["RES2_OUT_CHANNELS"] = 64
    if about.groups > 1:
        resnets["NUM_GROUPS"] = about.groups
    if about.group_width != 64:
        resnets["WIDTH_PER_GROUP"] = about.group_width
    settings = [f"MODEL.RESNETS.{name} {value}" for name, value in resnets.items()]
    return (
        f'MODEL.WEIGHTS {path} INPUT.FORMAT RGB MODEL.PIXEL_MEAN "{mean}" MODEL.PIXEL_STD "{std}" {" ".join(settings)}'
    )


TARGET = Target((".pkl",), write, read, how)
