"""The mechanisms as settings: what each needs, what a step does, what to change when it fails.

Nothing here imports torch: the schema, the report, the alarms and the studies read these
descriptions. A new mechanism is a class here and its module beside this one; nothing else names it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from moco.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

Momentum = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["constant", "cosine"]
# K is `num_keys`: the run cache of DVC leaves out parameters that are called `size`.
RISES = "cosine: m rises to 1 over training, as the learning rate falls."
SYMMETRIC = "Each view is query and key in turn, at twice the work a step (the loss is the mean of both)."
_SLOWER = "raise {momentum} or lower {rate}"
_WARMER = "lower {rate} or raise {temperature}"


@dataclass(frozen=True)
class Mechanism:
    """A way to get the keys that queries are compared with.

    Remedies name settings in braces: momentum, rate, size, start, temperature, epochs.

    Attributes:
        name: its name for people.
        views: views of an image that a step needs.
        in_batch: whether the negatives are the batch's own keys.
        fills: what must be full before the first random keys are gone; None: there are none.
        sentence: where its keys come from.
        momentum: what its momentum is of; None: it has none.
        against_collapse: remedy for queries or features that collapse.
        against_random_start: what is added to that remedy where the first keys are random and need
            not be.
        unfilled: what is wrong when random first keys are left at the end; {share} is that of the
            real ones.
        against_unfilled: remedy for that.
        divisible: whether a step can be taken in parts that fit into memory.
        predictor: whether the query encoder ends in a predictor.
    """

    name: str
    views: int
    in_batch: bool
    fills: Literal["queue", "images"] | None
    sentence: str
    momentum: str | None
    against_collapse: str
    against_random_start: str = ""
    unfilled: str = ""
    against_unfilled: str = ""
    divisible: bool = True
    predictor: bool = False

    @property
    def encodes_keys(self) -> bool:
        """Whether keys are encoded, in batch-norm groups that can be shuffled."""
        return self.views > 1


class Kind(Settings):
    """The settings of a mechanism, with what it is and the way to build it."""

    about: ClassVar[Mechanism]

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

    about = Mechanism(
        name="MoCo (momentum queue)",
        views=2,
        in_batch=False,
        fills="queue",
        sentence="keys of earlier steps, from an encoder that follows slowly",
        momentum="m, how slowly the key encoder follows the query encoder",
        against_collapse=_SLOWER,
        # Queries are farthest from random keys when all point in one direction, and deep encoders
        # stay there.
        against_random_start=", or, where it was so from the beginning, set {start} to keys or lower {size}",
        unfilled="the queue never fills ({share} at the end)",
        against_unfilled="raise {epochs} or lower {size}",
    )

    kind: Literal["momentum-queue"]
    num_keys: int = Field(ge=1, le=100_000_000, description="K: number of keys in the queue.")
    start: Literal["random", "keys"] = Field(
        "random",
        description="random: random keys are negatives until real ones replace them, as in the paper. keys: only real keys"
        " are, so that the first steps have few; for deep encoders on small sets, and for trained ones.",
    )
    momentum: Momentum = Field(description="m of the key encoder's update (paper, equation 2).")
    momentum_schedule: Schedule = Field(description=RISES)
    symmetric: bool = Field(description=SYMMETRIC)

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.momentum_queue import MomentumQueue

        random = self.start == "random"
        return MomentumQueue(encoder, dim, self.num_keys, self.momentum, generator, random_start=random)


class MemoryBank(Kind):
    """A key for every training image, from when it was last seen (figure 2b; Wu et al. 2018)."""

    about = Mechanism(
        name="memory bank",
        views=1,
        in_batch=False,
        fills="images",
        sentence="every image's own key, as it was when the image was last seen",
        momentum="of an image's key, in the mean with its new query",
        against_collapse=_WARMER,
        unfilled="the memory bank keeps random first keys to the end ({share} of its keys are real then)",
        against_unfilled="raise {epochs} to 2 at least",
    )

    kind: Literal["memory-bank"]
    num_keys: int = Field(ge=1, le=100_000_000, description="K: number of keys drawn from the bank in a step.")
    momentum: Momentum = Field(description="Share of an image's key in its mean with the new query.")

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.memory_bank import MemoryBank

        return MemoryBank(dim, images, self.num_keys, self.momentum, seed, generator)


class EndToEnd(Kind):
    """The batch is the dictionary, and keys take gradient too (paper, figure 2a)."""

    about = Mechanism(
        name="end-to-end",
        views=2,
        in_batch=True,
        fills=None,
        sentence="the batch's other keys, which take gradient too",
        momentum=None,
        against_collapse=_WARMER,
        divisible=False,
    )

    kind: Literal["end-to-end"]

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.end_to_end import EndToEnd

        return EndToEnd()


class MomentumBatch(Kind):
    """Keys of the batch alone, from a momentum encoder (Chen, Xie & He 2021, "MoCo v3")."""

    about = Mechanism(
        name="momentum batch (as in MoCo v3)",
        views=2,
        in_batch=True,
        fills=None,
        sentence="the batch's other keys, from an encoder that follows slowly",
        momentum="m, how slowly the key encoder follows the query encoder",
        against_collapse=_SLOWER,
        predictor=True,
    )

    kind: Literal["momentum-batch"]
    momentum: Momentum = Field(description="m of the key encoder's update (paper, equation 2).")
    momentum_schedule: Schedule = Field(description=RISES)
    symmetric: bool = Field(description=SYMMETRIC)

    def build(self, encoder, dim, images, seed, generator=None):  # type: ignore[no-untyped-def]
        from moco.dictionary.momentum_batch import MomentumBatch

        return MomentumBatch(encoder, self.momentum)


AnyKind = Annotated[MomentumQueue | MemoryBank | EndToEnd | MomentumBatch, Field(discriminator="kind")]
"""`pretrain.dictionary`: where keys come from."""
