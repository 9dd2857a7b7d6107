"""Batch norm in fine-tuning: synchronized over processes, frozen or local, and precise statistics.

The paper fine-tunes with batch norm that is trained and synchronized, in the new layers as in the
pretrained ones (section 4.2), because features of another pretraining have another scale than those
the recipes were made for.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from moco.encoders.split_batch_norm import ends_in_activation, is_unknown
from moco.errors import MocoError
from moco.processes import Processes

Kind = Literal["synchronized", "frozen", "local"]


def set_batch_norm(model: nn.Module, kind: Kind, processes: Processes | None) -> nn.Module:
    """Replace every BatchNorm2d of a model, ours over groups included, in place.

    Parameters and buffers are kept, so that optimizers and state dicts stay valid; so is the
    activation in which timm's norms end.

    Args:
        model: any module.
        kind: "synchronized": statistics of a step are those of the batches of all processes
            together, however many images each holds (torch's SyncBatchNorm on CUDA,
            `SynchronizedBatchNorm2d` elsewhere). "frozen": the running statistics normalize, in
            training too, and weight and bias are not trained. "local": each process has its own
            statistics (`nn.BatchNorm2d`).
        processes: that share a step; None: this process alone, for which "synchronized" is "local".

    Returns:
        The model; its replacement if it is a batch norm itself.

    Raises:
        MocoError: names a norm over the batch whose kind is not known.
    """
    if is_unknown(model):
        raise MocoError(
            f"a {type(model).__name__} normalizes over the batch in a way that is not known; use torch's BatchNorm there"
        )
    if isinstance(model, nn.BatchNorm2d | nn.SyncBatchNorm):
        return _replacement(model, kind, processes)
    for name, child in model.named_children():
        replaced = set_batch_norm(child, kind, processes)
        if replaced is not child:
            setattr(model, name, replaced)
    return model


def _replacement(norm: nn.BatchNorm2d | nn.SyncBatchNorm, kind: Kind, processes: Processes | None) -> nn.Module:
    options: dict[str, Any] = {"eps": norm.eps, "momentum": norm.momentum, "affine": norm.affine}
    made: nn.BatchNorm2d | nn.SyncBatchNorm
    if kind == "frozen":
        made = FrozenBatchNorm2d(norm.num_features, **options)
        for parameter in norm.parameters(recurse=False):  # those of an activation are still trained
            parameter.requires_grad_(False)
    elif kind == "local" or processes is None or processes.world_size == 1:
        made = nn.BatchNorm2d(norm.num_features, **options)
    elif processes.device.type == "cuda":
        made = nn.SyncBatchNorm(norm.num_features, process_group=processes.in_step, **options)
    else:
        made = SynchronizedBatchNorm2d(norm.num_features, processes, **options)
    made.weight, made.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(made, name, buffer)
    if ends_in_activation(norm):
        made.drop, made.act = norm.get_submodule("drop"), norm.get_submodule("act")
        made.register_forward_hook(_activate)
    return made.train(norm.training)


def _activate(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    activated: Tensor = norm.get_submodule("act")(norm.get_submodule("drop")(output))
    return activated


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A fixed scale and shift for each channel, from the running statistics."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        """Stay in evaluation mode."""
        super().train(False)
        return self


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with the statistics of all processes' batches; torch's own needs CUDA.

    Every process calls it the same number of times, forward and backward; a batch may be empty. As
    in torch's, running variances are unbiased over all processes' values, and the gradients of
    weight and bias are this process's own, for DistributedDataParallel to average.

    Args:
        num_features: C, channels.
        processes: that share a step.
        options: as of `nn.BatchNorm2d`.
    """

    def __init__(self, num_features: int, processes: Processes, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.processes = processes

    def forward(self, input: Tensor) -> Tensor:
        """Normalize N x C x H x W of any floating type; the statistics are float32 at least.

        Raises:
            ValueError: in training, all processes together hold one value a channel or none.
        """
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _statistics(input.detach(), self.processes)
        if count <= 1:
            raise ValueError(f"batch norm needs more than {int(count)} values a channel in training")
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        weight, bias = self.weight, self.bias
        if weight is None:  # affine=False
            weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
        output: Tensor = _Normalize.apply(input, weight, bias, mean, variance, self.eps, count, self.processes)
        return output


def _statistics(input: Tensor, processes: Processes) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance [C] of all processes' values, and their number a channel.

    Each process sends its own mean and variance: sums of squares would lose what small variances
    are made of.
    """
    own_mean, own_variance, own_count = _moments(input)
    sent = torch.cat([own_mean, own_variance, own_mean.new_tensor([own_count])])
    rows = processes.gather(sent[None], group=processes.in_step)
    means, variances = rows[:, :-1].chunk(2, dim=1)
    count = rows[:, -1].sum()
    share = rows[:, -1:] / count.clamp(min=1)
    mean = (share * means).sum(dim=0)
    variance = (share * (variances + (means - mean).square())).sum(dim=0)
    return mean, variance, float(count)


def _moments(input: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance [C] of N x C x H x W, float32 at least, and values a channel."""
    values = input if input.dtype == torch.float64 else input.float()
    count = values.numel() // values.shape[1]
    if not count:
        return values.new_zeros(values.shape[1]), values.new_zeros(values.shape[1]), 0
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    return mean, variance, count


class _Normalize(torch.autograd.Function):
    """Normalize, where mean and deviation depend on every process's x."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        count: float,
        processes: Processes,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, (variance + eps).rsqrt())
        ctx.count, ctx.processes = count, processes
        return F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, scale = ctx.saved_tensors
        centered = input.to(mean.dtype) - _by_channel(mean)
        gradient = gradient.to(mean.dtype)
        own = torch.stack([gradient.sum(dim=(0, 2, 3)), (gradient * centered).sum(dim=(0, 2, 3))])
        weight_gradient, bias_gradient = (own[1] * scale).to(weight.dtype), own[0].to(weight.dtype)
        sums = own.clone()
        if ctx.processes.world_size > 1:
            dist.all_reduce(sums, group=ctx.processes.in_step)
        # each value also moves the mean and the variance that normalize all processes' values
        mean_part, variance_part = sums[0] / ctx.count, sums[1] / ctx.count * scale.square()
        moved = torch.addcmul(gradient - _by_channel(mean_part), centered, _by_channel(variance_part), value=-1)
        input_gradient = moved.mul_(_by_channel(weight.to(mean.dtype) * scale)).to(input.dtype)
        return input_gradient, weight_gradient, bias_gradient, None, None, None, None, None


def _by_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def reestimate(model: nn.Module, batches: Iterable[Callable[[], None]], processes: Processes | None) -> None:
    """Estimate the running statistics of batch norms with the final weights ("precise batch norm").

    Each batch is normalized by its own statistics. The running mean becomes the mean of the
    batches' means; the running variance the mean of their mean squares, less the square of that
    mean: the variance within batches and between them (Wu and Johnson, "Rethinking 'Batch' in
    BatchNorm", 2021, section 3 and appendix; fvcore's PreciseBN). Batches, those of all processes
    too, are weighted by their number of values a channel. Frozen batch norms and layers that no
    batch reaches stay as they are. Every module returns to the mode that it was in.

    Args:
        model: after training.
        batches: calls that each run the model, then in training mode, on a batch, without
            gradients; the same number on every process if batch norms are synchronized.
        processes: whose batches count; None: this one's.

    Raises:
        MocoError: no batch is given.
    """
    modes = {module: module.training for module in model.modules()}
    model.train()
    norms = [module for module in modes if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.training]
    place = next(model.parameters()).device
    sums = [torch.zeros(1 + 2 * norm.num_features, dtype=torch.float64, device=place) for norm in norms]
    hooks = [
        norm.register_forward_pre_hook(partial(_add_moments, total)) for norm, total in zip(norms, sums, strict=True)
    ]
    number = torch.zeros(1, dtype=torch.float64, device=processes.device if processes else "cpu")
    try:
        with torch.no_grad():
            for run in batches:
                run()
                number += 1
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if not norms:
        return
    flat = torch.cat([number.to(sums[0].device), *sums])
    if processes is not None and processes.world_size > 1:
        dist.all_reduce(flat)
    if not flat[0]:
        raise MocoError("batch norm statistics: no batch to estimate them from; give at least one")
    for norm, total in zip(norms, flat[1:].split([len(total) for total in sums]), strict=True):
        if total[0]:
            assert norm.running_mean is not None and norm.running_var is not None
            mean, square = (total[1:] / total[0]).chunk(2)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_((square - mean.square()).clamp(min=0))


def _add_moments(sums: Tensor, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Add a call's values a channel, and these times its mean and its mean square, [1 + 2C]."""
    mean, variance, count = _moments(inputs[0].detach())
    if count:
        sums[0] += count
        sums[1:] += count * torch.cat([mean, variance + mean.square()]).double()
