"""What the report shows of the images: some views, neighbors, a map, and the collapse measures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moco.config import Params, Pretrain
from moco.encoders.frozen import FrozenEncoder, random_encoder
from moco.features.collapse import effective_rank, feature_spread
from moco.features.extract import Features, extract, sample_indices
from moco.features.neighbors import nearest
from moco.features.usable import DIVERGED, require_finite
from moco.images.batches import read_image
from moco.images.decode import Pixels
from moco.images.index import ShardSet
from moco.images.subset import subset
from moco.images.views import two_views
from moco.permutation import Integers
from moco.report.feature_map import FEWEST, tsne
from moco.report.pictures import Shown, one_a_cell

GALLERY = 10_000
"""Most training images among which neighbors are sought: enough to find good ones."""


@dataclass(frozen=True)
class Collapse:
    """The measures of one encoder; `rank` is out of `of` = min(images, D)."""

    spread: float
    rank: float
    of: int


@dataclass(frozen=True)
class FeatureMap:
    """A 2-D map.

    Attributes:
        points: float32, N x 2, in [0, 1].
        labels: int32 [N], -1 where there is none.
        rows: int64 [N], the images, as their split numbers them.
        features: float32, N x D.
        chosen: int64, places in the map of the images to draw.
        images: those images.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int32]
    rows: Integers
    features: Features
    chosen: Integers
    images: list[Pixels]


@dataclass(frozen=True)
class Samples:
    """Everything the report shows of the images themselves.

    Attributes:
        classes: names; empty without labels.
        learned_from: number of images that the encoder was pretrained on.
        held_out: whether queries, views and map are validation images; else they are training
            images that are kept out of the gallery.
        triples: image, query view and key view of the first epoch.
        rows: query images with their neighbors.
        gallery: number of training images among which neighbors were sought.
        same_class: share of the neighbors shown that have their query's class; None without labels.
        map: None where there are too few images.
        mapped: number of images behind the map and the collapse measures.
        collapse: by encoder, "moco" and "random".
    """

    classes: list[str]
    learned_from: int
    held_out: bool
    triples: list[tuple[Pixels, Pixels, Pixels]]
    rows: list[tuple[Shown, list[Shown]]]
    gallery: int
    same_class: float | None
    map: FeatureMap | None
    mapped: int
    collapse: dict[str, Collapse]


def gather(encoder: FrozenEncoder, train: ShardSet, val: ShardSet, params: Params, num_workers: int) -> Samples:
    """Choose images by the report's seed and encode them; the test split is not touched.

    Encodes and compares on the encoder's devices, and measures collapse on the first of them. In
    memory are the features of `GALLERY` and of `report.map_images` images.

    Args:
        encoder: the pretrained one.
        train: neighbors come from here.
        val: queries, views and map come from here; if empty, from `train` outside the gallery.
        params: `report` says how many of each, `pretrain` how views are made, and `linear.seed`
            makes the linear stage's untrained encoder.
        num_workers: loader processes.
    """
    settings, pretrain = params.report, params.pretrain
    devices = encoder.devices
    untrained = random_encoder(encoder.spec, params.linear.seed, devices)
    pool = val if len(val) else train
    looked_at = sample_indices(len(pool), settings.map_images, settings.seed)
    candidates = np.arange(len(train))
    if not len(val):
        looked_at = sample_indices(len(train), min(settings.map_images, len(train) // 2), settings.seed)
        candidates = np.setdiff1d(candidates, looked_at)
    gallery = candidates[sample_indices(len(candidates), GALLERY, settings.seed)]
    features = extract(encoder, pool, looked_at, num_workers)
    require_finite(features, "report", DIVERGED)
    queries = sample_indices(len(looked_at), settings.queries, settings.seed)
    neighbors = extract(encoder, train, gallery, num_workers)
    found, similarities = nearest(features[queries], neighbors, settings.neighbors, devices)
    rows = [
        (
            _shown(pool, sample),
            [
                _shown(train, other, float(value), _same(pool, sample, train, other))
                for other, value in zip(gallery[near], values, strict=True)
            ],
        )
        for sample, near, values in zip(looked_at[queries], found, similarities, strict=True)
    ]
    known = [shown.same for _, row in rows for shown in row if shown.same is not None]
    return Samples(
        classes=list(train.classes),
        learned_from=len(subset(train, pretrain.images, pretrain.images_fraction, pretrain.seed)),
        held_out=len(val) > 0,
        triples=_triples(pool, looked_at[sample_indices(len(looked_at), settings.views, settings.seed)], pretrain),
        rows=rows,
        gallery=len(gallery),
        same_class=float(np.mean(known)) if known else None,
        map=_map(pool, looked_at, features, settings.seed, devices[0]),
        mapped=len(looked_at),
        collapse={
            "moco": _collapse(features, devices[0]),
            "random": _collapse(extract(untrained, pool, looked_at, num_workers), devices[0]),
        },
    )


def _shown(images: ShardSet, sample: int, similarity: float | None = None, same: bool | None = None) -> Shown:
    label = int(images.labels[sample])
    name = images.classes[label] if label >= 0 else images.key(int(sample))
    return Shown(read_image(images, int(sample)), name, similarity, same)


def _same(one: ShardSet, i: int, other: ShardSet, j: int) -> bool | None:
    a, b = int(one.labels[i]), int(other.labels[j])
    return None if a < 0 or b < 0 else a == b


def _triples(
    images: ShardSet, chosen: Sequence[int] | Integers, pretrain: Pretrain
) -> list[tuple[Pixels, Pixels, Pixels]]:
    triples = []
    for sample in chosen:
        image = read_image(images, int(sample))
        query, key = two_views(image, pretrain.views, pretrain.image_size, pretrain.seed, 0, int(sample))
        triples.append((image, query, key))
    return triples


def _map(images: ShardSet, rows: Integers, features: Features, seed: int, device: torch.device) -> FeatureMap | None:
    if len(rows) < FEWEST:
        return None
    points = tsne(features, seed, device)
    chosen = one_a_cell(points)
    drawn = [read_image(images, int(sample)) for sample in rows[chosen]]
    return FeatureMap(points, np.asarray(images.labels)[rows], rows, features, chosen, drawn)


def _collapse(features: Features, device: torch.device) -> Collapse:
    return Collapse(feature_spread(features, device), effective_rank(features, device), min(features.shape))
