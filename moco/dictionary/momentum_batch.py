"""No queue: the keys of the batch alone, from a momentum encoder (Chen, Xie & He 2021, "MoCo v3")."""

from collections.abc import Sequence

from torch import Tensor

from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.dictionary.protocol import Batch, Encode


class MomentumBatch(MomentumEncoder):
    """The positive of a query is its own image's key, its negatives are the batch's B - 1 other keys.

    With a predictor behind the query encoder alone, and both views in both parts (`symmetric`), this is the
    arrangement of MoCo v3 (its algorithm 1); the optimizer and its factor 2 tau on the loss are not part of it.
    """

    def look_up(self, batch: Batch, view: int, encode: Encode) -> Tensor:
        """Keys of the step's images from the momentum encoder."""
        return self.encode(batch, view)

    def negatives(self, batch: Batch) -> None:
        """None but the batch's other keys."""

    def enqueue(self, batch: Batch, keys: Sequence[Tensor], queries: Tensor) -> None:
        """Nothing outlives the step."""
