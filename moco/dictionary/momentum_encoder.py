"""A key encoder that follows the query encoder slowly (paper, section 3.2, "Momentum update")."""

import copy

import torch
from torch import Tensor, nn

from moco.dictionary.protocol import Batch, Encode
from moco.dictionary.shuffle_bn import Traveling, from_slots
from moco.encoders.batch_norm import micro_batches


class MomentumEncoder(nn.Module):
    """The part that mechanisms with a momentum encoder share.

    Args:
        encoder: images to unit vectors; the key encoder starts as its copy.
        momentum: m of the key encoder's update, in [0, 1]; may be changed from step to step,
            and be a scalar tensor.

    Attributes:
        encoder_k: the key encoder; it takes no gradient.
    """

    def __init__(self, encoder: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum: float | Tensor = momentum
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def update_encoder(self, encoder_q: nn.Module) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q (paper, equation 2), for parameters.

        Batch-norm statistics are its own.

        Parameters that the query encoder has beyond the key encoder's (a predictor) are left out.
        """
        fast = dict(encoder_q.named_parameters())
        slow, ahead = list[Tensor](), list[Tensor]()
        for name, parameter in self.encoder_k.named_parameters():
            slow.append(parameter)
            ahead.append(fast[name])
        if isinstance(self.momentum, Tensor):  # on the device, where a captured step reads it
            moves = torch._foreach_sub(ahead, slow)
            torch._foreach_mul_(moves, 1 - self.momentum)
            torch._foreach_add_(slow, moves)
        else:
            torch._foreach_lerp_(slow, ahead, 1 - self.momentum)

    def send(self, batch: Batch, view: int) -> Traveling:
        """Send a view's images to the processes that encode them."""
        return Traveling(batch.views[view], batch.shuffle, batch.processes)

    @torch.no_grad()
    def look_up(self, batch: Batch, traveling: Traveling, encode: Encode) -> Tensor:
        """Give the positives, B x C of length 1, encoded slowly and in shuffled groups."""
        shuffled = traveling.arrive()  # N x 3 x S x S
        slots = [
            self.encoder_k(shuffled[part])
            for part in micro_batches(self.encoder_k, batch.count, batch.micro_batch_size)
        ]
        return from_slots(torch.cat(slots), batch.shuffle, batch.processes)
