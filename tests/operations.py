"""The operations that torch carries out, one by one."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")
"""Operations at which the host would wait for a GPU: their results' values or shapes are read."""


class Operations(TorchDispatchMode):
    """A context that lists operations, and refuses those at which a host waits.

    Attributes:
        seen: names, in order.
    """

    def __init__(self, may_wait: bool = True) -> None:
        super().__init__()
        self.may_wait, self.seen = may_wait, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen.append(name)
        if not self.may_wait:
            assert not name.startswith(WAITS), f"{name} makes the host wait"
            # an index of truth values is counted first
            indices = [x for x in tree_leaves(args[1:]) if isinstance(x, Tensor)] if name.startswith("index") else []
            assert all(x.dtype != torch.bool for x in indices), f"{name} by truth values makes the host wait"
        return func(*args, **(kwargs or {}))
