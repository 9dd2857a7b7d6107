"""One namespace for all tensors of a file, however deep it keeps them and whatever wraps them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from moco.encoders.files.inert import StandIn

Value = Tensor | np.ndarray[Any, Any]
OPTIMIZERS = ("optimizer", "optimizer_states", "optimizers")
_NOT_WEIGHTS = (*OPTIMIZERS, "param_schedulers", "lr_schedulers", "scheduler", "scaler", "fp16_scaler", "amp")
_MODULES = ("module", "_orig_mod", "model", "net")
_ROOTS = ("state_dict", "model_state_dict", "classy_state_dict", "base_model")
# What may stand before a wrapper such as `module.`: names of whole networks, never of layers.
_NETWORKS = re.compile(
    r"(base_|momentum_|online_|target_)?(backbone|encoder|network)|encoder_[qk]|teacher|student|trunk|predictor|projector"
)


@dataclass
class Keys:
    """The tensors of a file.

    Attributes:
        values: by their names without wrappers (`module.`, `state_dict.`, …), in the file's order.
        roots: the file's own outermost names.
        taken: names that have found their place.
    """

    values: dict[str, Value]
    roots: frozenset[str]
    taken: set[str] = field(default_factory=set)

    def has(self, *prefixes: str) -> bool:
        """Whether some name begins with one of these."""
        return any(name.startswith(prefixes) for name in self.values)

    def take(self, prefix: str) -> dict[str, Value]:
        """Hand out what begins with a prefix and is not taken yet, without the prefix."""
        found = {name: value for name, value in self.free().items() if name.startswith(prefix)}
        self.taken |= found.keys()
        return {name.removeprefix(prefix): value for name, value in found.items()}

    def free(self) -> dict[str, Value]:
        """Give what is not taken yet."""
        return {name: value for name, value in self.values.items() if name not in self.taken}

    def unused(self, ignored: tuple[str, ...]) -> list[str]:
        """Name what is left, except second names of tensors that are taken, and what may be left.

        Args:
            ignored: prefixes of what may be left.
        """
        places = {_place(self.values[name]) for name in self.taken}
        left = self.free().items()
        return [name for name, value in left if not name.startswith(ignored) and _place(value) not in places]


def _place(value: Value) -> tuple[int, Any]:
    return value.data_ptr() if isinstance(value, Tensor) and value.numel() else id(value), value.shape


def keys_of(content: Mapping[str, Any]) -> Keys:
    """Gather the tensors and arrays of a file; optimizers and schedules are no weights."""
    values: dict[str, Value] = {}
    for parts, value in _tensors(content, ()):
        name = ".".join(_unwrapped(parts))
        # A second copy, such as `model` beside `state_dict`, keeps its own name.
        values[name if name not in values else ".".join(parts)] = value
    return Keys(values, frozenset(map(str, content)))


def _tensors(content: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Value]]:
    for key, value in content.items():
        inner = (*path, *str(key).split("."))
        if not path and key in _NOT_WEIGHTS:
            continue
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "?biufc"):
            yield inner, value
        elif isinstance(value, StandIn) and "_modules" in value.attributes:
            if len(inner) == 1 and inner[0] in (*_MODULES, *_ROOTS):
                yield from _tensors(_tree(value), inner)
        elif isinstance(value, Mapping):
            yield from _tensors(value, inner)


def _tree(module: StandIn) -> dict[str, Any]:
    """Give the state dict of a module that was saved whole."""
    own = {**(module.attributes.get("_parameters") or {}), **(module.attributes.get("_buffers") or {})}
    children = module.attributes["_modules"] or {}
    return own | {name: _tree(child) for name, child in children.items() if isinstance(child, StandIn)}


def _unwrapped(parts: tuple[str, ...]) -> list[str]:
    """Drop what frameworks put before names and between the names of whole networks."""
    kept: list[str] = []
    for number, part in enumerate(parts[:-1]):
        if part in _MODULES or part in _ROOTS:
            continue
        kept.append(part)
        if not _NETWORKS.fullmatch(part):
            return [*kept, *parts[number + 1 :]]
    return [*kept, parts[-1]]
