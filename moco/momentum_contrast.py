"""One step of Momentum Contrast: the paper's Algorithm 1 on one screen."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco.cluster.process_group import Processes
from moco.cluster.shuffle_bn import from_slots, to_slots
from moco.dictionary import Contrast, MomentumQueue, info_nce
from moco.encoders import normalise
from moco.images.plan import Integers


class Encoder(nn.Module):
    """A backbone and a projection head: images to unit vectors.

    Args:
        backbone: N x 3 x H x W to features N x D.
        head: N x D to N x C.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images N x 3 x H x W to vectors N x C of length 1, float32 under autocast too."""
        projected = self.head(self.backbone(images))
        return F.normalize(projected.float() if projected.itemsize < 4 else projected, dim=1)


class MoCo(nn.Module):
    """Query encoder and dictionary.

    Args:
        backbone: N x 3 x H x W to features N x D.
        head: N x D to N x C.
        dim: C.
        queue_size: K, number of keys.
        momentum: m, of the key encoder.
        temperature: tau, of InfoNCE.
        generator: draws the queue's first keys.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, dim: int = 128, queue_size: int = 65536, momentum: float = 0.999,
        temperature: float = 0.07, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder_q = Encoder(backbone, head)
        self.dictionary = MomentumQueue(self.encoder_q, dim, queue_size, momentum, generator)
        self.temperature = temperature

    def contrast(
        self, images: Tensor, positions: Integers, processes: Processes, encode_queries: Callable[[Tensor], Tensor],
        autocast: torch.autocast,
    ) -> tuple[Contrast, Tensor, Tensor]:  # fmt: skip
        """Look this process's queries up in the dictionary.

        Args:
            images: uint8, 2 x N x 3 x S x S, query and key views.
            positions: int64 [B], which image each slot of the shuffled key batch encodes.
            processes: this process and its peers; B = N x world_size.
            encode_queries: `encoder_q`, or what wraps it for gradient averaging.
            autocast: the precision of the encoders.

        Returns:
            The contrast, whose loss is to be differentiated; the queries, N x C; the keys of the whole
            step, B x C, to be enqueued after the backward pass, which still reads the queue.
        """
        images_q, images_k = images  # N x 3 x S x S each
        self.dictionary.update_encoder(self.encoder_q)
        with autocast:
            slots = self.dictionary.encode(normalise(to_slots(images_k, positions, processes)))  # N x C
            queries = encode_queries(normalise(images_q))  # N x C
        keys = from_slots(slots, positions, processes)  # B x C
        mine = keys[processes.rank * len(queries) : (processes.rank + 1) * len(queries)]  # N x C
        return info_nce(queries, mine, self.dictionary.keys, self.temperature), queries, keys
