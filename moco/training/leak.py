"""Does batch norm tell the encoder which key belongs to which query (paper, section 3.3)?

A batch-norm group leaves the traces of its own statistics in all its outputs. Where a query's group
and its key's group hold the same images, an encoder can match the traces and need not look at the
image. Shuffled keys take that way out. The probe asks an encoder both ways, and compares.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from moco.config import Pretrain, Views
from moco.dictionary.end_to_end import EndToEnd
from moco.dictionary.info_nce import info_nce, info_nce_in_batch
from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.dictionary.momentum_queue import MomentumQueue
from moco.images.batches import as_images, views_of
from moco.images.index import ShardSet
from moco.images.views import draw
from moco.momentum_contrast import MoCo
from moco.permutation import Integers

GROUPS, FEWEST_IMAGES = 8, 256
"""A probe takes at most this many batch-norm groups, and at most this many images."""
_EPOCH = 0x1EA5  # of the probe's views: far from those that training draws under the same seed


@dataclass(frozen=True)
class LeakProbe:
    """Measures the leak on a fixed set of views.

    Attributes:
        images: the set they are made of, such as the validation split.
        views: their distributions, as in training.
        size: S, their side in pixels.
        group_size: images that share batch-norm statistics.
        seed: of the views.
        compiled: whether the compiled part paints them.
    """

    images: ShardSet
    views: Views
    size: int
    group_size: int
    seed: int
    compiled: bool

    @classmethod
    def of(cls, settings: Pretrain, images: ShardSet, compiled: bool) -> "LeakProbe":
        """Make the probe of a run: its views, of the images of a validation split."""
        return cls(images, settings.views, settings.image_size, settings.bn_group_size, settings.seed, compiled)

    def __call__(self, model: MoCo, autocast: torch.autocast) -> float | None:
        """Measure the leak of a model, as `leak`.

        None where it has no keys to shuffle, or there are not two groups of images.

        The model's copies are asked: nothing of it moves.
        """
        dictionary = model.dictionary
        groups = groups_of(len(self.images), self.group_size)
        if groups < 2 or not isinstance(dictionary, MomentumEncoder | EndToEnd):
            return None
        encoder_q = copy.deepcopy(model.encoder_q)
        encoder_k = copy.deepcopy(dictionary.encoder_k) if isinstance(dictionary, MomentumEncoder) else encoder_q
        negatives = dictionary.usable() if isinstance(dictionary, MomentumQueue) else None
        device = next(encoder_q.parameters()).device
        views = self.paint(np.arange(groups * self.group_size)).to(device)
        with autocast:
            return leak(encoder_q, encoder_k, views[0], views[1], self.group_size, negatives)

    def paint(self, samples: Integers) -> Tensor:
        """Two views of some images, uint8 2 x N x 3 x S x S, channels-last.

        The same whenever they are asked for.
        """
        batch = np.empty((2, len(samples), self.size, self.size, 3), dtype=np.uint8)
        drawn = draw(self.views, self.seed, _EPOCH, samples)
        for i, sample in enumerate(samples):
            data, key = self.images.read(int(sample)), self.images.key(int(sample))
            views_of(data, key, drawn[i], batch[:, i], self.compiled)
        return as_images(batch)


def groups_of(images: int, group_size: int) -> int:
    """Count the batch-norm groups that a probe takes of `images` images."""
    return min(images // group_size, max(GROUPS, FEWEST_IMAGES // group_size))


@torch.no_grad()
def leak(
    encoder_q: nn.Module, encoder_k: nn.Module, queries: Tensor, keys: Tensor, group_size: int, negatives: Tensor | None
) -> float:
    """By how much a query finds its key more often if both were encoded in the same company.

    Near 0 for an encoder that looks at the image; up to 1 for one that reads batch-norm statistics.

    Args:
        encoder_q: images to unit vectors; it is put into training mode, and its running statistics
            move.
        encoder_k: likewise, of the keys; may be the same.
        queries: float, N x 3 x S x S, N a multiple of the group size.
        keys: other views of the same images.
        group_size: images that share batch-norm statistics.
        negatives: K x C keys of other images; None: each query's are the other N - 1 keys.

    Returns:
        Top-1 with keys in their queries' groups less top-1 with keys spread, in [-1, 1].
    """
    q = _encode(encoder_q, queries, group_size)
    groups = len(queries) // group_size
    same = _encode(encoder_k, keys, group_size)
    order = other_company(groups, group_size)
    other = torch.empty_like(same)
    other[order] = _encode(encoder_k, keys[order], group_size)
    return _top1(q, same, negatives) - _top1(q, other, negatives)


def other_company(groups: int, group_size: int) -> Tensor:
    """Draw which position each slot encodes, int64 [N], each group of slots with equal shares."""
    return torch.arange(groups * group_size).view(groups, group_size).T.flatten()


def _encode(encoder: nn.Module, images: Tensor, group_size: int) -> Tensor:
    encoder.train()
    vectors: Sequence[Tensor] = [encoder(group) for group in images.split(group_size)]
    return torch.cat(list(vectors))


def _top1(queries: Tensor, keys: Tensor, negatives: Tensor | None) -> float:
    if negatives is None:
        own = torch.arange(len(queries), device=queries.device)
        found = info_nce_in_batch(queries, keys, own, temperature=1.0)
    else:
        found = info_nce(queries, keys, negatives, temperature=1.0)
    return float((found.rank_of_positive < 1).double().mean())
