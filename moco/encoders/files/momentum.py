"""Momentum buffers of an optimizer, by the names of the parameters that they belong to."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from moco.encoders.files.keys import OPTIMIZERS, Keys, Value

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "queue", "queue_ptr", "bank", "bank_ptr", "center")


def optimizer_of(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the state dict of a file's (first) optimizer."""
    for name in OPTIMIZERS:
        found = content.get(name)
        if isinstance(found, list | tuple) and found:
            found = found[0]
        if (
            isinstance(found, Mapping)
            and isinstance(found.get("state"), Mapping)
            and isinstance(found.get("param_groups"), list)
            and all(isinstance(group, Mapping) for group in found["param_groups"])
        ):
            return found
    return None


def momentum_buffers(optimizer: Mapping[str, Any], keys: Keys, ours: Mapping[str, str]) -> dict[str, Value]:
    """Give SGD's momentum buffers by our names of the parameters.

    An optimizer numbers its parameters in the order of the state dict, all of the file's (the
    official code lists the key encoder's too) or those of the query encoder alone. Another number
    of parameters, or a buffer of another shape than its parameter, is another order: no buffer is
    handed out then.

    Args:
        optimizer: its state dict.
        keys: of the file.
        ours: of each parameter that is trained, its name in the file and ours.
    """
    numbers = [number for group in optimizer["param_groups"] for number in group.get("params", ())]
    parameters = [name for name in keys.values if name.rpartition(".")[2] not in _BUFFERS]
    for order in (parameters, [name for name in parameters if name in ours]):
        if len(order) != len(numbers):
            continue
        by_number = dict(zip(numbers, order, strict=True))
        state = {
            by_number[number]: values["momentum_buffer"]
            for number, values in optimizer["state"].items()
            if isinstance(values, Mapping) and isinstance(values.get("momentum_buffer"), Tensor) and number in by_number
        }
        fits = all(tuple(value.shape) == tuple(keys.values[name].shape) for name, value in state.items())
        if state and fits:
            return {ours[name]: value for name, value in state.items() if name in ours}
    return {}
