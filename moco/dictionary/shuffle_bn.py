"""Shuffling BN (paper, section 3.3): a key and its query share no batch-norm statistics.

A step's key images lie at positions 0 … B-1 of the global batch, process r holding the r-th slice.
A permutation assigns each to a slot; process r encodes the r-th slice of slots, so the batch-norm
groups of the keys (consecutive slots) are other images than the groups of the queries (consecutive
positions).

The official code gathers all key images on every process, and picks. Here each image goes only to
the process that encodes it, so that traffic per process does not grow with their number.
"""

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


def to_slots(images: Tensor, positions: Integers, processes: Processes) -> Tensor:
    """Send each key image to the process that encodes it.

    Args:
        images: uint8, N x 3 x S x S, this process's slice of the positions (see `bounds`).
        positions: int64 [B], from `positions_of_slots`, the same on every process.
        processes: this process and its peers.

    Returns:
        uint8, N x 3 x S x S, the images of this process's slots, in slot order.
    """
    # NHWC in memory in and out, so that channels-last images travel without a change of layout.
    rows = images.permute(0, 2, 3, 1)
    if processes.world_size == 1:
        return _pick(rows, positions).permute(0, 3, 1, 2)
    slices = bounds(len(positions), processes.world_size)
    mine = slice(slices[processes.rank], slices[processes.rank + 1])
    wanted = positions[mine]
    receivers = np.searchsorted(slices, np.argsort(positions)[mine], side="right") - 1
    senders = np.searchsorted(slices, wanted, side="right") - 1
    sent = np.bincount(receivers, minlength=processes.world_size).tolist()
    received = np.bincount(senders, minlength=processes.world_size).tolist()
    leaving = _pick(rows, np.argsort(receivers, kind="stable"))
    arrived = rows.new_empty(len(wanted), *rows.shape[1:])
    dist.all_to_all_single(arrived, leaving, received, sent, group=processes.in_step)
    # What arrives is ordered by sender and then by position, which is simply by position.
    return _pick(arrived, np.argsort(np.argsort(wanted))).permute(0, 3, 1, 2)


def _pick(rows: Tensor, order: Integers) -> Tensor:
    # index_select is several times faster than rows[order] for whole images of uint8.
    return rows.index_select(0, indices_on(rows.device, order))


def indices_on(device: torch.device, order: Integers) -> Tensor:
    """Put indices on a device without making the host wait."""
    # From page-locked memory, because the host would wait for any other copy until the GPU has done
    # all before it.
    indices = torch.from_numpy(order)
    return indices.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else indices


def from_slots(keys: Tensor, positions: Integers, processes: Processes) -> Tensor:
    """Gather the keys of all slots and undo the permutation.

    Args:
        keys: N x C, the keys of this process's slots.

    Returns:
        B x C, the keys of all positions, the same on every process. Their gradient flows back, if
        they take one.
    """
    counts = np.diff(bounds(len(positions), processes.world_size))
    longest = int(counts.max())
    if len(keys) < longest:  # a collective moves as many rows from each
        keys = torch.cat([keys, keys.new_zeros(longest - len(keys), keys.shape[1])])
    gathered = processes.gather(keys, processes.in_step)
    if counts.min() < longest:
        real = np.concatenate([rank * longest + np.arange(count) for rank, count in enumerate(counts)])
        gathered = gathered[indices_on(keys.device, real)]
    return _pick(gathered, np.argsort(positions))
