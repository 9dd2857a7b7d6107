"""Another's network with its batch norms over groups of a batch, whatever kind they are of."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from moco.encoders.batch_norm import GroupBatchNorm1d, GroupBatchNorm2d, GroupBatchNorm3d
from moco.errors import MocoError

_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct")
"""timm's norms that end in `drop` and `act`; named, so that timm need not be there."""
_OTHER_KINDS = ("InplaceAbn", "InPlaceABN", "ABN", "EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2", "BatchRenorm2d")
"""Norms over a batch that are no subclass of torch's."""
_KINDS: tuple[tuple[type[nn.Module], type[GroupBatchNorm2d]], ...] = (
    (nn.BatchNorm1d, GroupBatchNorm1d),
    (nn.BatchNorm3d, GroupBatchNorm3d),
    (nn.BatchNorm2d, GroupBatchNorm2d),
    (nn.SyncBatchNorm, GroupBatchNorm2d),
)


class GroupBatchNormAct2d(GroupBatchNorm2d):
    """A norm over groups that ends as timm's does, in a drop and an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalize N x C x H x W by groups, drop and activate."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def split_batch_norm(model: nn.Module, group_size: int) -> nn.Module:
    """Replace a network's batch norms by norms over groups ("split BN"), their state kept.

    One device then computes what several would, and keys that are shuffled over the groups do not
    give themselves away (paper, section 3.3). Converted are torch's norms of all dimensions,
    `SyncBatchNorm`, subclasses that compute as torch's do, and timm's with an activation; each
    keeps its options. `norms_in_groups` counts them.

    Args:
        model: any module; changed in place.
        group_size: images that share statistics.

    Returns:
        The model, or its replacement where it is itself a batch norm.

    Raises:
        MocoError: names a norm over the batch whose kind is not known; nothing was changed.
    """
    for name, module in model.named_modules():
        if is_unknown(module):
            raise MocoError(
                f"{name or 'the model'} is a {type(module).__name__}, whose statistics cannot be split into groups; use"
                " torch's BatchNorm there, or one group for the whole batch"
            )
    return _split(model, group_size)


def norms_in_groups(model: nn.Module) -> tuple[int, int]:
    """Count the batch norms of a model that work in groups, and all of them."""
    norms = [module for module in model.modules() if _over_a_batch(module)]
    return sum(isinstance(norm, GroupBatchNorm2d) for norm in norms), len(norms)


def _split(model: nn.Module, group_size: int) -> nn.Module:
    for name, child in model.named_children():
        setattr(model, name, _split(child, group_size))
    if isinstance(model, GroupBatchNorm2d):
        model.group_size = group_size
        return model
    kind = _kind(model)
    if kind is None:
        return model
    assert isinstance(model, _BatchNorm)
    split = kind(
        model.num_features,
        group_size,
        eps=model.eps,
        momentum=model.momentum,
        affine=model.affine,
        track_running_stats=model.track_running_stats,
    )
    if isinstance(split, GroupBatchNormAct2d):
        split.drop, split.act = model.get_submodule("drop"), model.get_submodule("act")
    state = model.state_dict()
    split.load_state_dict(state)
    split.train(model.training)
    for name, parameter in model.named_parameters(recurse=False):
        split.get_parameter(name).requires_grad_(parameter.requires_grad)
    first = next(iter(state.values()), torch.empty(0))
    return split.to(first.device, first.dtype if first.is_floating_point() else None)


def is_unknown(module: nn.Module) -> bool:
    """Whether a module normalizes over a batch with an arithmetic that is not known here."""
    return _over_a_batch(module) and not isinstance(module, GroupBatchNorm2d) and _kind(module) is None


def ends_in_activation(module: nn.Module) -> bool:
    """Whether a batch norm ends in `drop` and `act`, as timm's can."""
    return isinstance(module, GroupBatchNormAct2d) or type(module).__name__ in _WITH_ACTIVATION


def _over_a_batch(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or type(module).__name__ in _OTHER_KINDS


def _kind(module: nn.Module) -> type[GroupBatchNorm2d] | None:
    """Which norm over groups computes what a batch norm does; None: not known, or no batch norm."""
    if not isinstance(module, _BatchNorm) or isinstance(module, _LazyNormBase):
        return None
    if type(module).__name__ in _WITH_ACTIVATION:
        return GroupBatchNormAct2d
    if type(module).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return None
    return next((ours for theirs, ours in _KINDS if isinstance(module, theirs)), None)
