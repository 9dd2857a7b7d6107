"""The batches of views that training sees: read, decode once, make two views, uint8."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moco.config import Views
from moco.errors import MocoError
from moco.images import fused_views
from moco.images.decode import KEPT, Pixels, UndecodableError, decode
from moco.images.exact_reads import ExactReads
from moco.images.index import ShardSet
from moco.images.jpeg import header_of
from moco.images.operations import fused, paint_operations
from moco.images.plan import EpochPlan
from moco.images.stream import TarStreams
from moco.images.stream_plan import StreamPlan
from moco.images.views import Drawn, draw, paint


@dataclass
class ViewBatches:
    """This process's part of the global batches: a pure function of the plan and the step.

    Attributes:
        images: training images.
        plan: which of them when.
        views: the distributions of the views.
        size: S, their side in pixels.
        rank: of this process.
        world_size: number of processes.
        streams: reads the encoded images where the tars are elsewhere; None: by the index.
        compiled: whether the compiled part paints the views.
        per_image: V, views of each image; a single one is the first of two.
    """

    images: ShardSet
    plan: EpochPlan | StreamPlan
    views: Views
    size: int
    rank: int = 0
    world_size: int = 1
    streams: TarStreams | ExactReads | None = None
    compiled: bool = False
    per_image: int = 2

    @property
    def count(self) -> int:
        """N, this process's images of a step."""
        return self.plan.global_batch // self.world_size

    def fill(self, step: int, rows: slice, batch: Pixels) -> None:
        """Make some rows of a batch.

        Args:
            step: counted from 0 over the whole run.
            rows: which of the N images.
            batch: uint8, V x N x S x S x 3, queries and keys; receives these rows.
        """
        samples = self.plan.batch(step, self.rank, self.world_size)[rows]
        if self.streams:
            first = self.rank * self.count
            encoded: Iterable[bytes] = self.streams.read(step, first + rows.start, first + rows.stop)
        else:
            encoded = (self.images.read(int(sample)) for sample in samples)
        drawn = draw(self.views, self.plan.seed, self.plan.epoch_of(step), samples, self.per_image)
        for i, data in enumerate(encoded):
            views_of(data, self.images.key(int(samples[i])), drawn[i], batch[:, rows.start + i], self.compiled)

    def __getitem__(self, step: int) -> Tensor:
        """Make the batch of a step: uint8, V x N x 3 x S x S, channels-last in memory."""
        batch = np.empty((self.per_image, self.count, self.size, self.size, 3), dtype=np.uint8)
        self.fill(step, slice(0, self.count), batch)
        return as_images(batch)


def read_image(images: ShardSet, sample: int) -> Pixels:
    """Read and decode one image of a shard set, uint8 H x W x 3."""
    return read(images.read(sample), images.key(sample))


def read(data: bytes, key: str) -> Pixels:
    """Decode an image of a shard set; damage is an error, because sharding checked them all."""
    try:
        return decode(data)
    except UndecodableError as error:
        raise MocoError(f"sample {key}: {error}, but sharding decoded it; find the damage with `moco verify`") from None


def views_of(data: bytes, key: str, drawn: Drawn, out: Pixels, compiled: bool) -> None:
    """Make the views of an encoded image.

    Args:
        data: JPEG, PNG or WebP.
        key: its name, for errors.
        drawn: its views [V].
        out: uint8, V x S x S x 3, each view contiguous; receives the views.
        compiled: whether the compiled part paints.

    Raises:
        MocoError: the image is damaged.
    """
    size = fused_views.jpeg_size(data) if compiled and is_plain(data) else None
    if size is not None and fused_views.views_of_jpeg(data, fused(drawn.placed(*size)), out):
        paint_operations(drawn.chosen, out, after_fused=True)
        return
    image = read(data, key)
    chosen = drawn.placed(*image.shape[:2])
    if compiled:
        fused_views.views_of_pixels(image, fused(chosen), out)
        paint_operations(chosen, out, after_fused=True)
    else:
        paint(image, chosen, out)


def is_plain(data: bytes) -> bool:
    """Tell whether `decode` neither turns nor shrinks a JPEG, so that others may decode it too."""
    header = header_of(data)
    return header is not None and header.orientation == 1 and header.height * header.width <= KEPT


def as_images(batch: Pixels) -> Tensor:
    """View a batch in torch's layout: uint8 … x S x S x 3 as … x 3 x S x S, in the same memory."""
    return torch.from_numpy(batch).movedim(-1, -3)
