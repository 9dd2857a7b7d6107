"""Shuffling BN (paper, section 3.3): keys are encoded in other company than their queries.

A step's key images lie at positions 0 … B-1 of the global batch, process r holding the r-th slice. A
permutation assigns each to a slot; process r encodes the r-th slice of slots, so the batch-norm groups of
the keys (consecutive slots) are other images than the groups of the queries (consecutive positions).

The official code gathers all key images on every process, and picks. Here each image goes only to the
process that encodes it, so that traffic per process does not grow with their number.
"""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moco.cluster.process_group import Processes
from moco.images.plan import Integers, key_of, permute

_PURPOSE = 0x5B  # keeps this permutation apart from the epoch plan's under the same seed


def positions_of_slots(seed: int, step: int, global_batch: int) -> Integers:
    """Which position each slot encodes: int64 [B], a permutation that depends on seed and step alone."""
    return permute(np.arange(global_batch), global_batch, key_of(seed, _PURPOSE, step))


def to_slots(images: Tensor, positions: Integers, processes: Processes) -> Tensor:
    """Send each key image to the process that encodes it.

    Args:
        images: uint8, N x 3 x S x S, this process's slice of the positions.
        positions: int64 [B], from `positions_of_slots`, the same on every process.
        processes: this process and its peers.

    Returns:
        uint8, N x 3 x S x S, the images of this process's slots, in slot order.
    """
    local = len(positions) // processes.world_size
    wanted = torch.from_numpy(positions[processes.rank * local : (processes.rank + 1) * local])
    if processes.world_size == 1:
        return images[wanted.to(images.device)]
    slot_of_position = np.argsort(positions)
    mine = slice(processes.rank * local, (processes.rank + 1) * local)
    receivers = torch.from_numpy(slot_of_position[mine] // local)
    senders = wanted // local
    sent = torch.bincount(receivers, minlength=processes.world_size).tolist()
    received = torch.bincount(senders, minlength=processes.world_size).tolist()
    # NHWC in memory in and out, so that channels-last images travel without a change of layout.
    rows = images.permute(0, 2, 3, 1)[torch.argsort(receivers, stable=True).to(images.device)].contiguous()
    arrived = torch.empty_like(rows)
    dist.all_to_all_single(arrived, rows, received, sent)
    # What arrives is ordered by sender and then by position, which is simply by position.
    order = torch.empty_like(wanted)
    order[torch.argsort(wanted)] = torch.arange(local)
    return arrived[order.to(images.device)].permute(0, 3, 1, 2)


def from_slots(keys: Tensor, positions: Integers, processes: Processes) -> Tensor:
    """Gather the keys of all slots and undo the permutation.

    Args:
        keys: N x C, the keys of this process's slots.

    Returns:
        B x C, the keys of all positions, the same on every process.
    """
    by_slot = processes.gather(keys)
    by_position = torch.empty_like(by_slot)
    by_position[torch.from_numpy(positions).to(keys.device)] = by_slot
    return by_position
