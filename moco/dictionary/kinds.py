"""The mechanisms as settings: what each needs, what it is for a step, and what to change when it fails.

Nothing here imports torch: the schema, the report, the alarms and the studies read these descriptions. A new mechanism
is a class here and its module beside this one; nothing else names it.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from moco.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

Momentum = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["constant", "cosine"]
RISES = "cosine: m rises to 1 over training, as the learning rate falls."
SYMMETRIC = "Each view is query and key in turn, at twice the work a step (the loss is the mean of both)."


class Kind(Settings):
    """What every mechanism says of itself; an implementation states what differs.

    Attributes:
        title: its name for people.
        sentence: what it does, for the report.
        views: views of an image that a step needs.
        in_batch: whether the negatives are the batch's other keys; else there are `size` of them.
        fills: what must pass before every key is a real one: as many keys as `size` ("size"), all training images once
            ("images"), or nothing (None).
        shuffles: whether keys are encoded, so that shuffling BN applies.
        divisible: whether a step can be taken in parts that fit into memory.
        predictor: whether the query encoder ends in a predictor.
        remedies: settings to change when features collapse or nothing is learned, as `raise KEY` or `lower KEY`, a hint
            behind a comma allowed.
    """

    title: ClassVar[str]
    sentence: ClassVar[str]
    views: ClassVar[int] = 2
    in_batch: ClassVar[bool] = False
    fills: ClassVar[Literal["size", "images"] | None] = None
    shuffles: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    predictor: ClassVar[bool] = False
    remedies: ClassVar[tuple[str, ...]]

    def build(
        self, encoder: "nn.Module", dim: int, images: int, seed: int, generator: "torch.Generator | None" = None
    ) -> "nn.Module":
        """Make the mechanism with its first keys.

        Args:
            encoder: images to unit vectors N x C; a momentum encoder starts as its copy.
            dim: C, length of a key.
            images: number of training images.
            seed: draws a step's negatives.
            generator: draws the first keys.
        """
        raise NotImplementedError


class MomentumQueue(Kind):
    """MoCo: a queue of keys from a momentum encoder (paper, section 3.2)."""

    title = "momentum queue"
    sentence = "MoCo: keys wait in a queue, and a slowly following encoder makes them"
    fills = "size"
    # Directly opposite to random keys lies one direction for all queries, which deep encoders do not leave.
    remedies = ("raise momentum", "lower size, for a deep encoder, because its keys are random at first")

    kind: Literal["momentum-queue"]
    size: int = Field(ge=1, description="K: number of keys in the queue.")
    momentum: Momentum = Field(description="m of the key encoder's update (paper, equation 2).")
    momentum_schedule: Schedule = Field(description=RISES)
    symmetric: bool = Field(description=SYMMETRIC)

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.momentum_queue import MomentumQueue

        return MomentumQueue(encoder, dim, self.size, self.momentum, generator)


class MemoryBank(Kind):
    """One key for every training image, as it was when last seen (paper, figure 2b; Wu et al. 2018)."""

    title = "memory bank"
    sentence = "each image's key is what the encoder made of it an epoch ago"
    views = 1
    fills = "images"
    shuffles = False
    remedies = ("raise pretrain.temperature",)

    kind: Literal["memory-bank"]
    size: int = Field(ge=1, description="K: number of keys drawn from the bank in a step.")
    momentum: Momentum = Field(description="Share of an image's key in its mean with the new query.")

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.memory_bank import MemoryBank

        return MemoryBank(dim, images, self.size, self.momentum, seed, generator)


class EndToEnd(Kind):
    """The batch is the dictionary, and keys take gradient too (paper, figure 2a)."""

    title = "end-to-end"
    sentence = "keys are the batch's own, and the gradient reaches the encoder through them too"
    in_batch = True
    divisible = False
    remedies = ("raise pretrain.temperature",)

    kind: Literal["end-to-end"]

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.end_to_end import EndToEnd

        return EndToEnd()


class MomentumBatch(Kind):
    """Keys of the batch alone, from a momentum encoder (Chen, Xie & He 2021, "MoCo v3")."""

    title = "momentum batch"
    sentence = (
        "as in MoCo v3, keys are the batch's own, from a momentum encoder, and a predictor follows the query encoder"
    )
    in_batch = True
    predictor = True
    remedies = ("raise momentum",)

    kind: Literal["momentum-batch"]
    momentum: Momentum = Field(description="m of the key encoder's update (paper, equation 2).")
    momentum_schedule: Schedule = Field(description=RISES)
    symmetric: bool = Field(description=SYMMETRIC)

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.momentum_batch import MomentumBatch

        return MomentumBatch(encoder, self.momentum)


Mechanism = Annotated[MomentumQueue | MemoryBank | EndToEnd | MomentumBatch, Field(discriminator="kind")]
"""`pretrain.dictionary`: where keys come from."""
