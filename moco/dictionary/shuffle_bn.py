"""Shuffling BN (paper, section 3.3): a key and its query share no batch-norm statistics.

A step's key images lie at positions 0 … B-1 of the global batch, process r holding the r-th slice.
A permutation assigns each to a slot; process r encodes the r-th slice of slots, so the batch-norm
groups of the keys (consecutive slots) are other images than the groups of the queries (consecutive
positions).

The official code gathers all key images on every process, and picks. Here each image goes only to
the process that encodes it, so that traffic per process does not grow with their number.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moco.permutation import Integers, key_of, permute
from moco.processes import Processes

_PURPOSE = 0x5B  # keeps this permutation apart from the epoch plan's under the same seed


def positions_of_slots(seed: int, step: int, global_batch: int) -> Integers:
    """Draw which position each slot encodes: int64 [B], a function of seed and step alone."""
    return permute(np.arange(global_batch), global_batch, key_of(seed, _PURPOSE, step))


def bounds(total: int, world_size: int) -> Integers:
    """Where each process's slice of a batch begins, and the last one's end: int64 [world_size + 1].

    Slices differ by one at most, the longer ones first.
    """
    ranks = np.arange(world_size + 1)
    return ranks * (total // world_size) + np.minimum(ranks, total % world_size)


@dataclass(frozen=True)
class Shuffle:
    """How the images of a step travel to the processes that encode them, and their keys back.

    Made ahead of the step, so that no GPU waits for it.

    Attributes:
        sent: images that go to each process; None: this one is alone.
        received: images that come from each.
        leaving: int64 [N] on the device, this process's images in the order in which they leave;
            alone, by slot.
        arriving: int64 [N] on the device, which of the images that arrive each slot encodes.
        returning: int64 [B] on the device, which of the gathered keys belongs to each position.
        longest: keys that each process gives to the gathering.
    """

    sent: list[int] | None
    received: list[int] | None
    leaving: Tensor
    arriving: Tensor | None
    returning: Tensor
    longest: int

    @classmethod
    def of(cls, positions: Integers, processes: Processes) -> "Shuffle":
        """Prepare a shuffle.

        Args:
            positions: int64 [B], which position each slot encodes; the same on every process.
            processes: this process and its peers.
        """
        back, world_size, device = np.argsort(positions), processes.world_size, processes.device
        if world_size == 1:
            every, returning = indices_on(device, positions), indices_on(device, back)
            return cls(None, None, every, None, returning, len(positions))
        slices = bounds(len(positions), world_size)
        mine = slice(slices[processes.rank], slices[processes.rank + 1])
        wanted = positions[mine]
        receivers = np.searchsorted(slices, back[mine], side="right") - 1
        senders = np.searchsorted(slices, wanted, side="right") - 1
        counts = np.diff(slices)
        longest = int(counts.max())  # a collective moves as many rows from each
        real = np.concatenate([rank * longest + np.arange(count) for rank, count in enumerate(counts)])
        return cls(
            np.bincount(receivers, minlength=world_size).tolist(),
            np.bincount(senders, minlength=world_size).tolist(),
            indices_on(device, np.argsort(receivers, kind="stable")),
            # What arrives is ordered by sender and then by position, which is simply by position.
            indices_on(device, np.argsort(np.argsort(wanted))),
            indices_on(device, real[back]),
            longest,
        )


class Traveling:
    """Key images on their way to the processes that encode them.

    Args:
        images: uint8, N x 3 x S x S, this process's slice of the positions (see `bounds`).
        shuffle: of the step.
        processes: this process and its peers.
    """

    def __init__(self, images: Tensor, shuffle: Shuffle, processes: Processes) -> None:
        # NHWC in memory, so that channels-last images travel without a change of layout.
        # index_select is several times faster than rows[order] for whole images of uint8.
        self._shuffle = shuffle
        self._leaving = images.permute(0, 2, 3, 1).index_select(0, shuffle.leaving)
        self._arrived, self._work = self._leaving, None
        if shuffle.sent is not None and shuffle.received is not None:
            self._arrived = self._leaving.new_empty(sum(shuffle.received), *self._leaving.shape[1:])
            self._work = dist.all_to_all_single(
                self._arrived, self._leaving, shuffle.received, shuffle.sent, group=processes.in_step, async_op=True
            )

    def arrive(self) -> Tensor:
        """Give the images of this process's slots: uint8, N x 3 x S x S, in slot order."""
        rows = self._arrived
        if self._work is not None and self._shuffle.arriving is not None:
            self._work.wait()
            rows = rows.index_select(0, self._shuffle.arriving)
        return rows.permute(0, 3, 1, 2)


def indices_on(device: torch.device, order: Integers) -> Tensor:
    """Put indices on a device without making the host wait."""
    # From page-locked memory, because the host would wait for any other copy until the GPU has done
    # all before it.
    indices = torch.from_numpy(order)
    return indices.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else indices


def from_slots(keys: Tensor, shuffle: Shuffle, processes: Processes) -> Tensor:
    """Gather the keys of all slots and undo the permutation.

    Args:
        keys: N x C, the keys of this process's slots.
        shuffle: of the step.
        processes: this process and its peers.

    Returns:
        B x C, the keys of all positions, the same on every process. Their gradient flows back, if
        they take one.
    """
    if len(keys) < shuffle.longest:
        keys = torch.cat([keys, keys.new_zeros(shuffle.longest - len(keys), keys.shape[1])])
    return processes.gather(keys, processes.in_step).index_select(0, shuffle.returning)
