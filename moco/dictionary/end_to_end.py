"""The end-to-end mechanism: the batch is the dictionary, keys take gradient (paper, figure 2a)."""

from collections.abc import Sequence

from torch import Tensor, nn

from moco.dictionary.protocol import Batch, Encode
from moco.dictionary.shuffle_bn import Traveling, from_slots


class EndToEnd(nn.Module):
    """Queries and keys come from one encoder, which back-propagation reaches through both.

    The paper lets the two encoders be identical or different (section 3.1); here they share their
    weights. K is tied to the batch: B - 1 negatives. The gradient passes through the shuffle and,
    between processes, through the gather.
    """

    def update_encoder(self, encoder_q: nn.Module) -> None:
        """Nothing follows the query encoder: it is the key encoder."""

    def send(self, batch: Batch, view: int) -> Traveling:
        """Send a view's images to the processes that encode them."""
        return Traveling(batch.views[view], batch.shuffle, batch.processes)

    def look_up(self, batch: Batch, traveling: Traveling, encode: Encode) -> Tensor:
        """Give keys of the step's images with their gradient, encoded in shuffled groups."""
        return from_slots(encode(traveling.arrive()), batch.shuffle, batch.processes)

    def negatives(self, batch: Batch) -> None:
        """None but the batch's other keys."""

    def enqueue(self, batch: Batch, keys: Sequence[Tensor], queries: Tensor) -> None:
        """Nothing outlives the step."""
