"""Are the weights of a model still numbers? Asked before they are saved."""

import torch
from torch import nn

from moco.processes import Processes


def weights_are_finite(model: nn.Module, processes: Processes) -> bool:
    """Tell whether parameters and running statistics are finite; the same answer on every process.

    Their squares too, for what larger weights make of an image overflows. Other buffers are left
    alone: an attention's mask is infinite on purpose.
    """
    statistics = (value for name, value in model.named_buffers() if "running_" in name)
    values = [value for value in (*model.parameters(), *statistics) if value.is_floating_point()]
    broken = (~torch.stack([value.float().square().sum().isfinite() for value in values]).all()).float().reshape(1)
    return not processes.mean_(broken, processes.in_step).item()
