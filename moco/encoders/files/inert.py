"""An unpickler that makes tensors, arrays and plain containers, and nothing else.

Checkpoints hold more than weights: settings, histories, whole modules. Their classes become inert
stand-ins that keep what they were given, so that the weights beside them can be read while nothing
of the file's choice is imported or run. No more memory is taken than the file has bytes for.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_REPEATED = 10**7
"""Elements of an expanded tensor, which stores fewer."""


class StandIn(dict[Any, Any]):
    """An object of a class that is not let in.

    Attributes:
        state: what the file would have given it.
    """

    made_of = ""
    dump_patches = False  # torch asks this of classes that were saved with their source
    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *_: Any, **__: Any) -> "StandIn":
        return StandIn()  # of a method that the file would have called

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def append(self, *_: Any) -> None:
        """Drop an item of what would be a list or a set."""

    extend = add = append

    @property
    def attributes(self) -> dict[str, Any]:
        """Its attributes by name, as far as the file has them."""
        return self.state if isinstance(self.state, dict) else {}


class _Maker:
    """A function that a file may call. It has no attributes that a file could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if math.prod(size) > max(storage._size(), MOST_REPEATED):
        raise pickle.UnpicklingError("more elements than it stores")
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def _array(*_: Any) -> np.ndarray[Any, Any]:
    return np.empty(0)  # its state follows


def _byte_array(data: Any = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(data if isinstance(data, bytes) else _encoded(data, encoding))  # a number would make as many zeros


def _array_of_buffer(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str, *_: Any) -> Any:
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _number(dtype: np.dtype[Any], data: Any = None) -> Any:
    plain = isinstance(data, bytes) and dtype.kind in "?biufcSU"
    return np.frombuffer(data, dtype)[0] if plain and data else None


def _encoded(text: Any, encoding: str = "latin1") -> Any:
    return text.encode("latin1") if isinstance(text, str) and encoding.startswith("latin") else b""


def _first(value: Any, *_: Any) -> Any:
    return value


BUILTINS = ("builtins", "__builtin__")
_CALLS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type": lambda make, kind, arguments, *_: make(*arguments),
    "torch._tensor._rebuild_from_type_v2": lambda make, kind, arguments, *_: make(*arguments),
    "_codecs.encode": _encoded,
    "numpy.ndarray": _array,
    **{f"{home}.bytearray": _byte_array for home in BUILTINS},
    **{  # NumPy 1 and 2 call the module differently
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in {
            "multiarray._reconstruct": _array,
            "multiarray.scalar": _number,
            "numeric._frombuffer": _array_of_buffer,
        }.items()
    },
}
# Types that no file can set attributes of: all are written in C.
_TYPES: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "numpy.dtype": np.dtype,
    **{f"{home}.{kind.__name__}": kind for home in BUILTINS for kind in (set, frozenset)},
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
}
PLAIN = {f"builtins.{kind}" for kind in ("bool", "dict", "float", "int", "list", "object", "str", "tuple")} | {
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
}
"""Classes without consequence, which need not be named where they are left out."""
_MADE = {name: _Maker(make) for name, make in _CALLS.items()} | _TYPES


class Unpickler(pickle._Unpickler):
    """Reads a pickle; `left_out` names the classes for which stand-ins were made.

    Python's own implementation: the one in C makes a table as long as the largest number that a
    damaged file gives an object.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.left_out: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Give what a name in the file stands for."""
        full = f"{module}.{name}"
        if full in _MADE:
            return _MADE[full]
        if full not in self.left_out:
            self.left_out[full] = type("StandIn", (StandIn,), {"made_of": full})
        return self.left_out[full]


class Pickle:
    """What `torch.load` takes for the module pickle; `left_out` are the classes not let in.

    Args:
        size: of the file, bytes. Storages that claim more together are refused before torch makes
            room for them.
    """

    __name__ = "pickle"  # torch looks at it

    def __init__(self, size: int) -> None:
        self.left_out: set[str] = set()
        self._claimed: dict[Any, int] = {}
        self._last: Any = None
        outer = self

        class Noting(Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                found = super().find_class(module, name)
                outer.left_out.update(self.left_out)
                return found

            @property
            def persistent_load(self) -> Callable[[Any], Any]:
                return self._checked

            @persistent_load.setter
            def persistent_load(self, make: Callable[[Any], Any]) -> None:
                self._make = make

            def _checked(self, said: Any) -> Any:
                if isinstance(said, tuple) and said[0] in ("storage", b"storage"):
                    _, kind, key, _, numel, *_ = said
                    outer._claimed[key] = max(
                        outer._claimed.get(key, 0), numel * torch._utils._element_size(kind.dtype)
                    )
                    if numel < 0 or sum(outer._claimed.values()) > size:
                        raise pickle.UnpicklingError("claims more than it holds")
                return self._make(said)

        self.Unpickler = Noting

    def load(self, file: Any, **options: Any) -> Any:
        """Read one object."""
        self._last = self.Unpickler(file, **options).load()
        return self._last

    def check_filled(self) -> None:
        """See that every storage was read, once torch has read a file of its old form.

        Raises:
            pickle.UnpicklingError: one is missing in the list that ends the file; it holds whatever
                was in memory.
        """
        if self._last is not None and not self._claimed.keys() <= set(self._last):
            raise pickle.UnpicklingError("does not hold all it names")
