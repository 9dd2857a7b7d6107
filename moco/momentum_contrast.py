"""Momentum Contrast: query encoder and dictionary, and how they meet (paper, Algorithm 1)."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from moco.dictionary import Batch, Contrast, Dictionary, EndToEnd, MemoryBank, MomentumBatch, MomentumQueue
from moco.dictionary.info_nce import info_nce, info_nce_in_batch
from moco.encoders.batch_norm import parts
from moco.encoders.normalize import normalize
from moco.processes import Processes

Mechanism = Literal["momentum-queue", "memory-bank", "end-to-end", "momentum-batch"]


class Encoder(nn.Module):
    """A backbone and a projection head: images to unit vectors.

    Args:
        backbone: N x 3 x H x W to features N x D.
        head: N x D to N x C.
        predictor: N x C to N x C, of the query encoder alone (MoCo v3); None: no such thing.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.head, self.predictor = backbone, head, predictor

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images N x 3 x H x W to vectors N x C of length 1, float32 under autocast too."""
        projected = self.head(self.backbone(images))
        if self.predictor is not None:
            projected = self.predictor(projected)
        return F.normalize(projected.float() if projected.itemsize < 4 else projected, dim=1)


class MoCo(nn.Module):
    """Query encoder and dictionary.

    In a notebook, `model(view_1, view_2).loss` is all there is to call; `moco.training.loop` uses `contrast`,
    which trains on many processes and in parts.

    Args:
        backbone: N x 3 x H x W to features N x D.
        head: N x D to N x C.
        dim: C.
        queue_size: K, number of keys (of the momentum queue and the memory bank).
        momentum: m, of the key encoder; in the memory bank that of an image's key.
        temperature: tau, of InfoNCE.
        mechanism: where the keys come from (`moco.dictionary`).
        symmetric: whether each view is both query and key: the loss is the mean of both ways (never for the
            memory bank, which has one view).
        predictor: N x C to N x C, behind the query encoder's head alone (MoCo v3).
        images: number of training images, which the memory bank needs.
        seed: draws the memory bank's negatives.
        generator: draws the first keys.

    Attributes:
        encoder_q: the query encoder; its parameters are the optimizer's.
        dictionary: the mechanism.

    Raises:
        ValueError: `mechanism` is none of the four.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        *,
        mechanism: Mechanism = "momentum-queue",
        symmetric: bool = False,
        predictor: nn.Module | None = None,
        images: int = 0,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        encoder = Encoder(backbone, head)
        self.encoder_q = Encoder(backbone, head, predictor) if predictor else encoder
        dictionaries: dict[str, Callable[[], Dictionary]] = {
            "momentum-queue": lambda: MomentumQueue(encoder, dim, queue_size, momentum, generator),
            "memory-bank": lambda: MemoryBank(dim, images, queue_size, momentum, seed, generator),
            "end-to-end": EndToEnd,
            "momentum-batch": lambda: MomentumBatch(encoder, momentum),
        }
        if mechanism not in dictionaries:
            raise ValueError(f"mechanism = {mechanism!r}; choose one of {', '.join(dictionaries)}")
        self.dictionary = dictionaries[mechanism]()
        self.temperature, self.symmetric = temperature, symmetric

    def forward(self, view_1: Tensor, view_2: Tensor) -> Contrast:
        """One step on one device: compare the queries with the dictionary, and put their keys into it.

        The caller calls `loss.backward()` and steps an optimizer over `encoder_q.parameters()`. Keys are encoded in
        another order than queries, which hides the ones from the others where the backbone's batch norms work in
        groups (`moco.encoders.batch_norm.split_batch_norm`).

        Args:
            view_1: float, N x 3 x H x W, as the backbone expects them; the queries.
            view_2: other views of the same images; the keys.

        Raises:
            ValueError: the mechanism is the memory bank, whose keys belong to numbered images: use `contrast`.
        """
        if isinstance(self.dictionary, MemoryBank):
            raise ValueError("the memory bank needs to know which image is which; call MoCo.contrast")
        order, numbers = torch.randperm(len(view_1)).numpy(), np.arange(len(view_1))
        batch = Batch((view_1, view_2), numbers, order, 0, Processes(0, 1, view_1.device))
        self.dictionary.update_encoder(self.encoder_q)
        keys = [self.dictionary.look_up(batch, of_key, self.encoder_q) for _, of_key in self._ways]
        queries = [self.encoder_q(batch.views[of_query]) for of_query, _ in self._ways]
        negatives = self.dictionary.negatives(batch)
        found = [self._compare(q, k, negatives, 0) for q, k in zip(queries, keys, strict=True)]
        self.dictionary.enqueue(batch, keys, queries[0].detach())
        loss = torch.stack([one.loss for one in found]).mean()
        return Contrast(loss, torch.cat([one.rank_of_positive for one in found]))

    def contrast(
        self, batch: Batch, encode_queries: Callable[[Tensor], Tensor], autocast: torch.autocast
    ) -> tuple[Contrast, Tensor]:
        """A step up to the loss's gradient, which is left in `encoder_q`; the dictionary then holds the step's keys.

        Args:
            batch: this process's part of the step.
            encode_queries: `encoder_q`, or what wraps it for gradient averaging.
            autocast: the precision of the encoders.

        Returns:
            The contrast of all N queries (2N if symmetric), its loss without graph, and the queries likewise. Parts that
            are encoded one after the other (`batch.at_once`) add up to the gradient of the whole.
        """
        self.dictionary.update_encoder(self.encoder_q)
        with autocast:
            keys = [self.dictionary.look_up(batch, of_key, encode_queries) for _, of_key in self._ways]  # B x C
        negatives = self.dictionary.negatives(batch)
        queries, losses, ranks = [], [], []
        for (of_query, _), k in zip(self._ways, keys, strict=True):
            for part in parts(self.encoder_q, batch.count, batch.at_once):
                last = part.stop == batch.count and k is keys[-1]
                wait = not last and isinstance(encode_queries, DistributedDataParallel)
                with encode_queries.no_sync() if wait else nullcontext():  # type: ignore[attr-defined]
                    with autocast:
                        q = encode_queries(normalize(batch.views[of_query][part]))  # at_once x C
                    one = self._compare(q, k, negatives, batch.first + part.start)
                    loss = one.loss * (len(q) / batch.count / len(keys))
                    loss.backward()
                queries.append(q.detach())
                losses.append(loss.detach())
                ranks.append(one.rank_of_positive)
        self.dictionary.enqueue(batch, keys, torch.cat(queries))
        return Contrast(torch.stack(losses).sum(), torch.cat(ranks)), torch.cat(queries)

    @property
    def _ways(self) -> tuple[tuple[int, int], ...]:
        """Pairs of views: the queries', the keys'."""
        return ((0, 1), (1, 0)) if self.symmetric else ((0, 1),)

    def _compare(self, queries: Tensor, keys: Tensor, negatives: Tensor | None, first: int) -> Contrast:
        """Queries against the keys of the same positions, of which they begin at `first`."""
        if negatives is None:
            own = torch.arange(first, first + len(queries), device=queries.device)
            return info_nce_in_batch(queries, keys, own, self.temperature)
        return info_nce(queries, keys[first : first + len(queries)], negatives, self.temperature)
