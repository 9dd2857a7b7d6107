"""A GPU that is too small for a step: how many images would fit."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from moco.config import Pretrain
from moco.devices import describe
from moco.errors import MocoError

SPARE = 0.9
"""Share of the memory that is planned with; the rest is for fragments and the loss."""


@contextmanager
def shortage_named(
    encoder_q: nn.Module, settings: Pretrain, micro_batch_size: int, world_size: int, autocast: torch.autocast
) -> Iterator[None]:
    """Turn an out-of-memory error of the block into the setting that avoids it.

    Args:
        encoder_q: the query encoder; after an error it is used to measure what would fit.
        settings: of the run.
        micro_batch_size: images that were encoded together.
        world_size: number of processes.
        autocast: the precision of the encoders.

    Raises:
        MocoError: names the setting and the largest value that fits.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError:
        pass  # the error holds the step's tensors; only without it can be measured
    device, group = next(encoder_q.parameters()).device, settings.bn_group_size
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    fits = largest(group, SPARE * room, lambda images: peak(encoder_q, images, settings.image_size, autocast))
    said = f"{micro_batch_size} images do not fit at once into the memory of {describe(device)}"
    if not settings.dictionary.about.divisible:
        raise MocoError(
            f"pretrain.global_batch = {settings.global_batch}: {said}, and pretrain.dictionary.kind ="
            f" {settings.dictionary.kind} takes its batch whole; lower it to {fits * world_size}"
        )
    if fits < group:
        raise MocoError(
            f"pretrain.bn_group_size = {group}: {said}, nor does one group; lower it, or set pretrain.precision: bf16"
        )
    raise MocoError(f"{said}; set max_batch_per_process: {fits} in machine.yaml, to the same result")


def largest(group: int, room: float, peak_of: Callable[[int], float]) -> int:
    """Compute how many images fit, in whole groups, from the memory of one group and of two.

    Args:
        group: images of a group.
        room: bytes that there are.
        peak_of: bytes that some images take; infinite where they do not fit.
    """
    one, two = peak_of(group), peak_of(2 * group)
    if math.isinf(two):
        return group if one <= room else 0
    each, fixed = (two - one) / group, 2 * one - two
    return max(0, int((room - fixed) / max(each, 1.0)) // group * group)


def peak(encoder_q: nn.Module, images: int, size: int, autocast: torch.autocast) -> float:
    """Measure the bytes that a forward and a backward pass of some images take on a GPU."""
    device = next(encoder_q.parameters()).device
    encoder_q.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with autocast:
            zeros = torch.zeros(images, 3, size, size, device=device)
            encoder_q(zeros.contiguous(memory_format=torch.channels_last)).sum().backward()
    except torch.OutOfMemoryError:
        return math.inf
    return float(torch.cuda.max_memory_allocated(device))
