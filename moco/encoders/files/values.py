"""The values of weights: converted where that loses nothing, refused where they cannot be right."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.encoders.files.architecture import COUNTER, sizes
from moco.encoders.files.keys import Value
from moco.errors import MocoError


class Values:
    """Makes float32 tensors of a file's values, and remembers what had to be changed.

    Args:
        path: of the file, for errors.

    Attributes:
        notes: sentences on what was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed: dict[str, int] = {}

    @property
    def notes(self) -> list[str]:
        """Say what was changed."""
        return [f"{what} ({count})" for what, count in self.changed.items()]

    def weights(self, values: Mapping[str, Value], part: str, integers: bool = False) -> dict[str, Tensor]:
        """Convert and check the weights of one part.

        Args:
            values: by name.
            part: what they are, for errors: backbone, head, …
            integers: whether whole numbers may be among them, as tables of positions are.

        Raises:
            MocoError: whole or complex numbers, NaN, infinity, or a negative variance.
        """
        return {name: self.one(value, name, part, integers) for name, value in values.items()}

    def one(self, value: Value, name: str, part: str, integers: bool = False) -> Tensor:
        """Convert and check one tensor; errors as of `weights`."""
        tensor = self._tensor(value)
        if name.endswith(COUNTER):
            return tensor.to(torch.int64)
        if integers and not tensor.dtype.is_floating_point and not tensor.dtype.is_complex:
            return tensor
        if not tensor.dtype.is_floating_point:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise self._error(part, name, f"holds {kind} numbers, not weights", "save the network in float32")
        if tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            self._count(f"tensors of {kind}, now float32")
        tensor = tensor.detach().to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            what = f"holds {bad} of {tensor.numel()} values that are NaN or infinite"
            raise self._error(part, name, what, "that training had failed; take an earlier checkpoint")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            what = f"holds a negative variance ({float(tensor.min()):.3g})"
            raise self._error(part, name, what, "the file is damaged; take another copy")
        return tensor

    def joined(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average running statistics that were kept for each part of a batch (split batch norm)."""
        for name, value in weights.items():
            stem, _, last = name.rpartition(".")
            scale = weights.get(f"{stem}.weight")
            if last in ("running_mean", "running_var") and scale is not None and scale.dim() == value.dim() == 1:
                splits = len(value) // len(scale)  # whole, or it were another architecture
                if splits > 1:
                    weights[name] = value.view(splits, -1).mean(dim=0)
                    self._count(f"statistics of split batch norm, now the mean of {splits} parts")
        return weights

    def counted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the counters of batch norms that old files do not have."""
        for name in [name for name in weights if name.endswith("running_var")]:
            counter = f"{name.removesuffix('running_var')}{COUNTER}"
            if counter not in weights:
                weights[counter] = torch.zeros((), dtype=torch.int64)
                self._count(f"missing {COUNTER}, now 0")
        return weights

    def _tensor(self, value: Value) -> Tensor:
        if isinstance(value, Tensor):
            return value
        self._count("arrays of NumPy, now tensors")
        if value.dtype.kind == "f" and value.dtype.itemsize > 8:  # torch has no longer floats
            value = value.astype(np.float64)
        native = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("=")))
        return torch.from_numpy(native.reshape(value.shape))

    def _count(self, what: str) -> None:
        self.changed[what] = self.changed.get(what, 0) + 1

    def _error(self, part: str, name: str, what: str, remedy: str) -> MocoError:
        return MocoError(f"{self.path}: {part}: {name} {what}; {remedy}")


def queue_rows(queue: Tensor, order: str, path: Path, name: str) -> Tensor:
    """Turn a queue into rows, one key each, in the order in which they will be replaced.

    Args:
        queue: dim x K ("columns"), K x dim ("rows"), or 2 x dim x K ("pairs": both views' keys of a
            step, which stand side by side afterwards, so that the pointer doubles).
        order: which of these.
        path: of the file, for errors.
        name: of the queue in it.

    Raises:
        MocoError: it has another number of dimensions.
    """
    if order == "pairs" and queue.dim() == 3:
        return queue.permute(2, 0, 1).reshape(-1, queue.shape[1]).contiguous()
    if queue.dim() == 2:
        return (queue if order == "rows" else queue.T).contiguous()
    raise MocoError(f"{path}: {name} is {sizes(tuple(queue.shape))}, no queue of keys; remove it from the file")
