"""A key encoder that follows the query encoder slowly (paper, section 3.2, "Momentum update")."""

import copy

import torch
from torch import Tensor, nn

from moco.dictionary.protocol import Batch
from moco.dictionary.shuffle_bn import from_slots, to_slots
from moco.encoders.batch_norm import micro_batches
from moco.encoders.normalize import normalize


class MomentumEncoder(nn.Module):
    """The part that mechanisms with a momentum encoder share.

    Args:
        encoder: images to unit vectors; the key encoder starts as its copy.
        momentum: m of the key encoder's update, in [0, 1]; may be changed from step to step.

    Attributes:
        encoder_k: the key encoder; it takes no gradient.
    """

    def __init__(self, encoder: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def update_encoder(self, encoder_q: nn.Module) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q (paper, equation 2), for parameters.

        Batch-norm statistics are its own.

        Parameters that the query encoder has beyond the key encoder's (a predictor) are left out.
        """
        fast = dict(encoder_q.named_parameters())
        slow = dict(self.encoder_k.named_parameters())
        torch._foreach_lerp_(list(slow.values()), [fast[name] for name in slow], 1 - self.momentum)

    @torch.no_grad()
    def encode(self, batch: Batch, view: int) -> Tensor:
        """Give keys of a view of the step's images: B x C of length 1, from shuffled groups."""
        shuffled = to_slots(batch.views[view], batch.positions, batch.processes)  # N x 3 x S x S
        slots = [
            self.encoder_k(normalize(shuffled[part]))
            for part in micro_batches(self.encoder_k, batch.count, batch.micro_batch_size)
        ]
        return from_slots(torch.cat(slots), batch.positions, batch.processes)
