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


def kind_of(optimizer: Mapping[str, Any]) -> str:
    """Tell an optimizer by its settings and state: sgd, lars, adam, or another optimizer.

    RMSprop, Muon and others have settings or buffers of SGD's names, and mean something else.
    """
    settings = {name for group in optimizer["param_groups"] for name in group}
    if settings & {"trust_coefficient", "trust_coeff"}:
        return "lars"
    if "betas" in settings:
        return "adam"
    kept = {name for values in optimizer["state"].values() if isinstance(values, Mapping) for name in values}
    return "sgd" if "dampening" in settings and kept <= {"momentum_buffer"} else "another optimizer"


def momentum_buffers(optimizer: Mapping[str, Any], keys: Keys, ours: Mapping[str, str]) -> dict[str, Value]:
    """Give the momentum buffers of SGD or LARS by our names of the parameters.

    An optimizer numbers its parameters in the order of the state dict, all of the file's (the
    official code lists the key encoder's too) or those of the query encoder alone. Ours with groups
    of their own for vectors lists these behind the others. Another number
    of parameters, or a buffer of another shape than its parameter, is another order: no buffer is
    handed out then.

    Args:
        optimizer: its state dict.
        keys: of the file.
        ours: of each parameter that is trained, its name in the file and ours.
    """
    numbers = [number for group in optimizer["param_groups"] for number in group.get("params", ())]
    parameters = [name for name in keys.values if name.rpartition(".")[2] not in _BUFFERS]
    trained = [name for name in parameters if name in ours]
    vectors_last = sorted(trained, key=lambda name: keys.values[name].ndim <= 1)
    for order in (parameters, trained, vectors_last):
        if len(order) != len(numbers):
            continue
        by_number = dict(zip(numbers, order, strict=True))
        state = {
            by_number[number]: buffer
            for number, values in optimizer["state"].items()
            if number in by_number
            and isinstance(values, Mapping)
            and isinstance(buffer := values.get("momentum_buffer", values.get("mu")), Tensor)  # mu: official MoCo v3
        }
        fits = all(tuple(value.shape) == tuple(keys.values[name].shape) for name, value in state.items())
        if state and fits:
            return {ours[name]: value for name, value in state.items() if name in ours}
    return {}
