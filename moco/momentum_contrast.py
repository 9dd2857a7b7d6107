"""Momentum Contrast: query encoder and dictionary, and how they meet (paper, Algorithm 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco.dictionary.info_nce import Contrast, info_nce, info_nce_in_batch
from moco.dictionary.inputs import normalized, same_images, same_length
from moco.dictionary.protocol import Batch, Dictionary, Encode, Keys
from moco.dictionary.shuffle_bn import Traveling
from moco.encoders.encode import features_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD, scale_and_shift
from moco.processes import Processes


class Encoder(nn.Module):
    """A backbone and a projection head: images to unit vectors.

    Args:
        backbone: N x 3 x H x W to features N x D.
        head: N x D to N x C.
        predictor: N x C to N x C, of the query encoder alone (MoCo v3); None: there is none.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        predictor: nn.Module | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.predictor = backbone, head, predictor
        self.mean, self.std = tuple(mean), tuple(std)
        scale, shift = scale_and_shift(mean, std)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images N x 3 x H x W as N x C of length 1, float32 always.

        Images of bytes are normalized; those of floats are taken to be normalized already.
        """
        if not images.is_floating_point():
            images = torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)
        projected = self.head(features_of(self.backbone, images))
        if self.predictor is not None:
            projected = self.predictor(projected)
        return F.normalize(projected.float() if projected.itemsize < 4 else projected, dim=1)


class MoCo(nn.Module):
    """Compare queries with a dictionary of keys (paper, Algorithm 1).

    A step is `send`, `keys`, `loss` and `enqueue`, with the caller's encoding of queries, backward
    and optimizer in between. `forward` composes them for a notebook; `moco.training.loop` composes
    them on many processes and in parts that fit into memory.

    Args:
        encoder_q: the query encoder, images to unit vectors N x C; its parameters are the
            optimizer's.
        dictionary: a mechanism (`moco.dictionary`), such as `MomentumQueue(encoder_q, dim, size,
            momentum)`.
        temperature: tau, of InfoNCE.
        symmetric: whether each view is both query and key: the loss is the mean of both ways.
    """

    encoder_q: Encoder
    dictionary: Dictionary

    def __init__(
        self, encoder_q: Encoder, dictionary: Dictionary, temperature: float = 0.07, *, symmetric: bool = False
    ) -> None:
        super().__init__()
        self.encoder_q, self.dictionary = encoder_q, dictionary
        self.temperature = temperature
        self._looked = False
        self.ways = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
        """Pairs of views: the queries', the keys'."""

    def send(self, batch: Batch) -> list[Traveling | None]:
        """Send the key images of each way to where they are encoded, and move the key encoder.

        What they travel beside is the caller's choice, such as the queries' forward pass.

        Args:
            batch: this process's part of the step.
        """
        traveling = [self.dictionary.send(batch, of_key) for _, of_key in self.ways]
        self.dictionary.update_encoder(self.encoder_q)
        return traveling

    def keys(self, batch: Batch, traveling: Sequence[Traveling | None], encode_queries: Encode | None = None) -> Keys:
        """Look up the step's keys.

        Args:
            batch: this process's part of the step.
            traveling: what `send` gave.
            encode_queries: what wraps `encoder_q` for gradient averaging, if anything does.
        """
        encode = encode_queries or self.encoder_q
        positives = [self.dictionary.look_up(batch, images, encode) for images in traveling]  # B x C each
        return Keys(positives, self.dictionary.negatives(batch))

    def loss(self, queries: Tensor, keys: Keys, way: int = 0, first: int = 0) -> Contrast:
        """Compare some queries with their keys and the negatives (paper, equation 1).

        Args:
            queries: n x C of length 1.
            keys: of the step.
            way: which of `ways` the queries are of.
            first: position of the first query in the global batch.
        """
        k = keys.positives[way]
        if keys.negatives is None:
            own = torch.arange(first, first + len(queries), device=queries.device)
            return info_nce_in_batch(queries, k, own, self.temperature)
        return info_nce(queries, k[first : first + len(queries)], keys.negatives, self.temperature)

    def enqueue(self, batch: Batch, keys: Keys, queries: Tensor) -> None:
        """Let the dictionary take in the step's keys, and queries N x C without gradient."""
        self.dictionary.enqueue(batch, keys.positives, queries)

    def forward(self, view_1: Tensor, view_2: Tensor, samples: Any = None) -> Contrast:
        """Take one step on one device; the caller calls `loss.backward()` and steps an optimizer.

        Keys are encoded in another order than queries, which hides them from each other where the
        backbone's batch norms work in groups (`moco.encoders.split_batch_norm`).

        Args:
            view_1: N x 3 x H x W, the queries: uint8, or float as the backbone expects them.
            view_2: other views of the same images; the keys.
            samples: int64 [N], the images' numbers, which a memory bank needs.

        Raises:
            ValueError: the views are not of the same N images, or in the first step hold values
                that nothing normalized; keys and queries differ in length; or the dictionary holds
                keys of numbered images, and `samples` is missing.
        """
        same_images(view_1, view_2)
        if not self._looked:  # once: on a GPU each look waits for it
            normalized(view_1, "view_1")
            normalized(view_2, "view_2")
            self._looked = True
        if samples is None and hasattr(self.dictionary, "bank"):
            raise ValueError("a memory bank needs to know which image is which; give their numbers as `samples`")
        numbers = np.arange(len(view_1)) if samples is None else np.asarray(samples)
        alone = Processes(0, 1, view_1.device)
        batch = Batch.of((view_1, view_2), numbers, torch.randperm(len(view_1)).numpy(), 0, alone)
        keys = self.keys(batch, self.send(batch))
        queries = [self.encoder_q(batch.views[of_query]) for of_query, _ in self.ways]  # N x C each
        same_length(queries[0], keys)
        found = [self.loss(q, keys, way) for way, q in enumerate(queries)]
        self.enqueue(batch, keys, queries[0].detach())
        loss = torch.stack([one.loss for one in found]).mean()
        return Contrast(loss, torch.cat([one.rank_of_positive for one in found]))
