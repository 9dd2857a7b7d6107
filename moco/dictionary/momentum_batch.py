"""The batch's keys alone, without a queue, from a momentum encoder (MoCo v3, Chen et al. 2021)."""

from collections.abc import Sequence

from torch import Tensor

from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.dictionary.protocol import Batch


class MomentumBatch(MomentumEncoder):
    """A dictionary of the batch: the positive is the own image's key, negatives the B - 1 others.

    With a predictor behind the query encoder alone, and both views in both parts (`symmetric`),
    this is the arrangement of MoCo v3 (its algorithm 1); the optimizer and its factor 2 tau on the
    loss are not part of it.
    """

    def negatives(self, batch: Batch) -> None:
        """None but the batch's other keys."""

    def enqueue(self, batch: Batch, keys: Sequence[Tensor], queries: Tensor) -> None:
        """Nothing outlives the step."""
