"""Batch normalization over groups of a batch.

In the paper each GPU normalizes with the statistics of its own images (section 3.3, "Shuffling
BN"). Here the number of images that share statistics is a setting, so that one process, or any
number of them that hold whole groups, computes what the paper's GPUs compute.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moco.processes import Processes


class GroupBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of consecutive groups of `group_size` images.

    The running statistics move once a batch, by the mean of the groups' statistics. They are linear
    in those, so averaging them over processes gives what one process with all groups would hold. A
    batch may come in parts (`set_batch_part`). Parameters and state are named as in
    `nn.BatchNorm2d`.

    Args:
        num_features: C, channels.
        group_size: images a group; None: the whole batch is one group.
        options: as of `nn.BatchNorm2d`: eps, momentum, affine, track_running_stats.
    """

    def __init__(self, num_features: int, group_size: int | None = None, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.group_size = group_size
        self.first_part, self.share = True, 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Normalize N x C x H x W; in training N must be a multiple of `group_size`.

        Raises:
            ValueError: in training, a batch that does not divide into groups.
        """
        # `training` first: an exported network must not look at N.
        if not self.training or self.group_size is None or (len(input) == self.group_size and self.share == 1.0):
            return super().forward(input)
        self._check_input_dim(input)
        groups, rest = divmod(input.shape[0], self.group_size)
        if rest:
            raise ValueError(f"a batch of {input.shape[0]} images does not divide into groups of {self.group_size}")
        weight, bias = self.weight, self.bias
        if weight is None:  # affine=False
            weight = torch.ones(self.num_features, device=input.device)
            bias = torch.zeros_like(weight)
        output, means, variances = _GroupNorm.apply(input, weight, bias, groups, self.eps)
        if self.track_running_stats:
            self._move_running_statistics(means, variances)
        return output

    @torch.no_grad()
    def _move_running_statistics(self, means: Tensor, variances: Tensor) -> None:
        """Move them towards the mean of a part's groups, each float32 G x C."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(self.first_part)
        # None: the plain mean over all batches so far
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, seen in ((self.running_mean, means), (self.running_var, variances)):
            if self.first_part:
                running.mul_(1 - momentum)
            running.add_(seen.mean(dim=0), alpha=momentum * self.share)


class _GroupNorm(torch.autograd.Function):
    """Normalize each of G groups of images by its own statistics.

    Gives the output, and the groups' means and unbiased variances, float32 G x C, without gradient.

    A CPU has fast kernels for one group, and takes them one after the other. Elsewhere a kernel
    costs as much to start as a group to compute, so all groups are one reduction and one
    multiply-add, which a compiler can join with its neighbors.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        C = input.shape[1]
        ctx.one_by_one = input.device.type == "cpu" and not torch.compiler.is_compiling()
        ctx.groups, ctx.eps = groups, eps
        if ctx.one_by_one:
            means, variances = weight.new_zeros(groups, C), weight.new_ones(groups, C)
            inverse, output = weight.new_empty(groups, C), torch.empty_like(input)
            for part, out, mean, variance, inverted in zip(
                input.chunk(groups), output.chunk(groups), means, variances, inverse, strict=True
            ):
                # momentum 1 makes each row of the scratch the group's own statistics
                torch.ops.aten.native_batch_norm.out(
                    part,
                    weight,
                    bias,
                    mean,
                    variance,
                    True,
                    1.0,
                    eps,
                    out=out,
                    save_mean=torch.empty_like(mean),
                    save_invstd=inverted,
                )
        else:
            x, n = _grouped(input, groups), input.numel() // (groups * C)
            over = (1, *range(3, x.dim()))
            if x.itemsize < 4:  # sums of float32, without a copy of the input in it
                means = x.sum(over, dtype=torch.float32) / n
                square = torch.linalg.vector_norm(x, 2, over, dtype=torch.float32).square() / n
                biased = (square - means.square()).clamp_min(0)
            else:
                biased, means = torch.var_mean(x, over, correction=0)
            inverse = (biased + eps).rsqrt()
            scale = inverse * weight
            shift = torch.addcmul(bias, means, scale, value=-1)
            output = torch.addcmul(_beside(shift, x), x, _beside(scale, x)).to(input.dtype)
            # Not a view as torch sees it: what follows may change it in place.
            output = torch.ops.aten._unsafe_view(output, input.shape)
            variances = biased * (n / max(1, n - 1))
        ctx.save_for_backward(input, weight, means, inverse)
        ctx.mark_non_differentiable(means, variances)
        return output, means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        input, weight, means, inverse = ctx.saved_tensors
        layout = torch.channels_last if _is_channels_last(input) else torch.contiguous_format
        gradient = gradient.contiguous(memory_format=layout)
        if ctx.one_by_one:
            of_input = torch.empty_like(input)
            of_weight, of_bias = torch.empty_like(means), torch.empty_like(means)
            parts = (whole.chunk(ctx.groups) for whole in (gradient, input, of_input))
            for dy, x, dx, mean, inverted, dw, db in zip(*parts, means, inverse, of_weight, of_bias, strict=True):
                torch.ops.aten.native_batch_norm_backward.out(
                    dy, x, weight, None, None, mean, inverted, True, ctx.eps, [True] * 3, out0=dx, out1=dw, out2=db
                )
            return of_input, of_weight.sum(dim=0), of_bias.sum(dim=0), None, None
        x, dy = _grouped(input, ctx.groups), _grouped(gradient, ctx.groups)
        over, n = (1, *range(3, x.dim())), input.numel() // means.numel()
        centered = x - _beside(means, x)
        of_bias = dy.sum(over, dtype=means.dtype)
        of_weight = (dy * centered).sum(over) * inverse
        scale = inverse * weight
        constant = scale * of_bias / -n
        slope = scale * inverse * of_weight / -n
        of_input = torch.addcmul(_beside(constant, x), centered, _beside(slope, x)).addcmul_(dy, _beside(scale, x))
        return of_input.to(input.dtype).view_as(input), of_weight.sum(dim=0), of_bias.sum(dim=0), None, None


def _grouped(images: Tensor, groups: int) -> Tensor:
    """View N x C x … as G x N/G x C x …."""
    return images.view(groups, -1, *images.shape[1:])


def _beside(statistics: Tensor, x: Tensor) -> Tensor:
    """View statistics G x C so that they broadcast over x, G x N/G x C x …."""
    return statistics.view(len(statistics), 1, -1, *[1] * (x.dim() - 3))


def _is_channels_last(images: Tensor) -> bool:
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)


class GroupBatchNorm1d(GroupBatchNorm2d):
    """The same for vectors N x C, as projection heads have them, and for sequences N x C x L."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"expected vectors N x C or sequences N x C x L, got {tuple(input.shape)}")


class GroupBatchNorm3d(GroupBatchNorm2d):
    """The same for volumes N x C x T x H x W."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 5:
            raise ValueError(f"expected volumes N x C x T x H x W, got {tuple(input.shape)}")


def set_batch_part(model: nn.Module, first: bool, share: float) -> None:
    """Tell a model's norms what the next call holds, so that parts move statistics as a whole.

    Args:
        model: any module; batch norms over one group only (`group_size` None) cannot be parted and
            are left alone.
        first: whether this is a batch's first part.
        share: of the batch, in (0, 1]; the shares of a batch's parts add up to 1.
    """
    for module in model.modules():
        if isinstance(module, GroupBatchNorm2d):
            module.first_part, module.share = first, share


def micro_batches(model: nn.Module, count: int, micro_batch_size: int | None) -> Iterator[slice]:
    """Slices of a batch of `count` images to be encoded one after the other.

    The batch norms are told which one comes.

    Args:
        model: the encoder.
        count: images of the batch.
        micro_batch_size: images of a slice, whole groups of them; None: all.
    """
    micro_batch_size = micro_batch_size or count
    for first in range(0, count, micro_batch_size):
        part = slice(first, min(first + micro_batch_size, count))
        set_batch_part(model, first == 0, (part.stop - first) / count)
        yield part
    set_batch_part(model, True, 1.0)


@contextmanager
def averaged_running_statistics(model: nn.Module, processes: Processes) -> Iterator[Tensor]:
    """While the context lasts, batch norms hold the mean of all processes' running statistics.

    Their own afterwards.

    Training continues with each process's own, so that when and how often a run is evaluated or
    saved changes nothing, not even by rounding.

    Yields:
        float32, world_size x n: every process's statistics, for `set_running_statistics`.
    """
    own = _flat_statistics(model)
    rows = processes.gather(own[None])
    set_running_statistics(model, rows.mean(dim=0) if processes.world_size > 1 else own)
    try:
        yield rows
    finally:
        set_running_statistics(model, own)


def set_running_statistics(model: nn.Module, values: Tensor) -> None:
    """Give a model's batch norms these running statistics, float32 [n], in its buffers' order."""
    buffers = _running_statistics(model)
    for buffer, part in zip(buffers, values.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def _running_statistics(model: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]


def _flat_statistics(model: nn.Module) -> Tensor:
    """All running statistics in one row; empty for a network without batch norm."""
    buffers = [buffer.flatten() for buffer in _running_statistics(model)]
    return torch.cat(buffers) if buffers else next(model.parameters()).new_empty(0)
