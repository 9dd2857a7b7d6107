"""Momentum Contrast: query encoder and dictionary, and how they meet (paper, Algorithm 1)."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from moco.batch_norm import take_part
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
        autocast: torch.autocast, at_once: int | None = None,
    ) -> tuple[Contrast, Tensor, Tensor]:  # fmt: skip
        """Look this process's queries up in the dictionary, and leave the loss's gradient in `encoder_q`.

        Args:
            images: uint8, 2 x N x 3 x S x S, query and key views.
            positions: int64 [B], which image each slot of the shuffled key batch encodes.
            processes: this process and its peers; B = N x world_size.
            encode_queries: `encoder_q`, or what wraps it for gradient averaging.
            autocast: the precision of the encoders.
            at_once: images that are encoded together, whole batch-norm groups of them; the gradients of
                the parts add up to that of the whole. None: all N.

        Returns:
            The contrast of all N, its loss without graph; the queries, N x C, likewise; the keys of the
            whole step, B x C, to be enqueued once the optimiser has moved.
        """
        images_q, images_k = images  # N x 3 x S x S each
        count, at_once = len(images_q), at_once or len(images_q)
        self.dictionary.update_encoder(self.encoder_q)
        with autocast:
            shuffled = to_slots(images_k, positions, processes)  # N x 3 x S x S
            slots = torch.cat(
                [
                    self.dictionary.encode(normalise(shuffled[part]))
                    for part in _parts(self.dictionary, count, at_once)
                ]
            )  # N x C
        keys = from_slots(slots, positions, processes)  # B x C
        mine = keys[processes.rank * count : (processes.rank + 1) * count]  # N x C
        queries, contrasts = [], []
        for part in _parts(self.encoder_q, count, at_once):
            wait = part.stop < count and isinstance(encode_queries, DistributedDataParallel)
            with encode_queries.no_sync() if wait else nullcontext():  # type: ignore[attr-defined]
                with autocast:
                    q = encode_queries(normalise(images_q[part]))  # at_once x C
                one = info_nce(q, mine[part], self.dictionary.keys, self.temperature)
                (one.loss * (len(q) / count)).backward()
            queries.append(q.detach())
            contrasts.append(Contrast(one.loss.detach() * (len(q) / count), one.rank_of_positive))
        loss = torch.stack([one.loss for one in contrasts]).sum()
        ranks = torch.cat([one.rank_of_positive for one in contrasts])
        return Contrast(loss, ranks), torch.cat(queries), keys


def _parts(encoder: nn.Module, count: int, at_once: int) -> Iterator[slice]:
    """Slices of a batch to be encoded one after the other; the encoder's batch norms are told which one comes."""
    for first in range(0, count, at_once):
        part = slice(first, min(first + at_once, count))
        take_part(encoder, first == 0, (part.stop - first) / count)
        yield part
    take_part(encoder, True, 1.0)
