"""Checkpoints of others: ResNets with torchvision's names, the official MoCo file among them."""

import argparse
import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from moco.encoders.architectures import ARCHITECTURES
from moco.encoders.build import shapes_of
from moco.errors import MocoError

_ROOTS = ("state_dict", "model", "backbone")
_WRAPPERS = re.compile(r"((module|_orig_mod|model|backbone|encoder|encoder_q)\.)*")
_COUNTER = "num_batches_tracked"
_NO_SUCH_CLASS = re.compile(r"GLOBAL (\S+) was not an allowed global")


@dataclass(frozen=True)
class ForeignEncoder:
    """What a file holds, in our names.

    Attributes:
        architecture: key of `ARCHITECTURES`, found from the shapes.
        stem: "imagenet" or "small". The stride of a 3x3 stem leaves no trace in its shape.
        weights: float32, a state dict of `ResNet(architecture, stem)`.
    """

    architecture: str
    stem: Literal["imagenet", "small"]
    weights: dict[str, Tensor]


def read_encoder(path: Path) -> ForeignEncoder:
    """Read a ResNet from a file of any of these forms.

    - a state dict with torchvision's names, alone or under "state_dict", "model" or "backbone", in
      a file of `torch.save` (of any age) or safetensors;
    - each name behind any of `module.`, `model.`, `backbone.`, `encoder.` and `encoder_q.`, one or
      several: what DistributedDataParallel and self-supervised frameworks add;
    - so also the official MoCo file ({epoch, arch, state_dict, optimizer} with
      `module.encoder_q.*`), whole or as it was released, without `optimizer`, `encoder_k`, `queue`
      or `module.`.

    Classifiers and projection heads (`fc.*`), key encoders, queues and optimizers are left out.
    Nothing in the file is run: it is read with `weights_only=True`, and of other classes than
    torch's only `argparse.Namespace` and NumPy's numbers, strings and arrays are let in.

    Raises:
        MocoError: the file cannot be read, holds a class that is not let in, or fits no known
            architecture.
    """
    weights = _encoder_of(_load(path), path)
    architecture, stem = _architecture_of(weights, path)
    for name in shapes_of(architecture, stem):
        if name.endswith(_COUNTER):  # absent from old files
            weights.setdefault(name, torch.zeros((), dtype=torch.int64))
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    return ForeignEncoder(architecture, stem, weights)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with torch.serialization.safe_globals(_harmless()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MocoError(f"{path}: {error.strerror or error}; name a checkpoint file that can be read") from None
    except Exception as error:  # damaged pickles end in errors of every kind
        refused = _NO_SUCH_CLASS.search(str(error)) if isinstance(error, UnpicklingError) else None
        if refused:
            raise MocoError(
                f"{path}: holds a {refused[1]}, which is not loaded because its code would run; load the file where it"
                " was made and save its state_dict() alone"
            ) from None
        raise MocoError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); it must be a file of torch.save or safetensors,"
            " and whole"
        ) from None
    if not isinstance(loaded, Mapping):
        raise MocoError(f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict()")
    return loaded


def _harmless() -> list[Any]:
    """Classes that settings and metrics in checkpoints are made of.

    Building one runs nothing of the file's choice.
    """
    makers = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.empty(0).__reduce__()[0]}
    renamed = [  # NumPy 1 and 2 call the module differently
        (maker, f"numpy.{core}.multiarray.{name}") for name, maker in makers.items() for core in ("core", "_core")
    ]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdU"}
    return [argparse.Namespace, codecs.encode, np.ndarray, np.dtype, *dtypes, *renamed]


def _encoder_of(loaded: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Find the entries of the one ResNet in a file, without what stands before their names."""
    state = loaded
    while root := next((root for root in _ROOTS if isinstance(state.get(root), Mapping)), None):
        state = state[root]
    prefixes = [
        prefix
        for prefix in (key.removesuffix("conv1.weight") for key in state if key.endswith("conv1.weight"))
        if _WRAPPERS.fullmatch(prefix) and f"{prefix}layer1.0.conv1.weight" in state
    ]
    if len(prefixes) != 1:
        found = (
            f"holds {len(prefixes)} ResNets, {' and '.join(f'{prefix}*' for prefix in prefixes)}"
            if prefixes
            else f"holds no ResNet with torchvision's names (its first entry is {next(iter(state), None)!r})"
        )
        raise MocoError(f"{path}: {found}; give the state dict of one, with conv1.weight, layer1.0.conv1.weight, …")
    names = {key: key.removeprefix(prefixes[0]) for key in state if key.startswith(prefixes[0])}
    return {
        name: state[key] for key, name in names.items() if isinstance(state[key], Tensor) and not name.startswith("fc.")
    }


def _architecture_of(weights: dict[str, Tensor], path: Path) -> tuple[str, Literal["imagenet", "small"]]:
    """Find the architecture whose names and shapes are exactly the file's."""
    stem: Literal["imagenet", "small"] = "imagenet" if weights["conv1.weight"].shape[-1] == 7 else "small"
    found = {name: tuple(value.shape) for name, value in weights.items() if not name.endswith(_COUNTER)}

    def expected(architecture: str) -> dict[str, tuple[int, ...]]:
        shapes = shapes_of(architecture, stem)
        return {name: shape for name, shape in shapes.items() if not name.endswith(_COUNTER)}

    def unlike(architecture: str) -> int:
        return len(expected(architecture).items() ^ found.items())

    nearest = min(ARCHITECTURES, key=unlike)
    if unlike(nearest) == 0:
        return nearest, stem
    wanted = expected(nearest)
    name = next(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
    if name not in found:
        problem = f"{name} is missing"
    elif name not in wanted:
        problem = f"{name} is unexpected"
    else:
        problem = f"{name} is {_sizes(found[name])} and not {_sizes(wanted[name])}"
    raise MocoError(
        f"{path}: fits none of the known architectures; in the nearest, {nearest}, {problem}; `moco encoders` lists them"
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
