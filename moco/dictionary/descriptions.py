"""What each mechanism is, in words and facts that configuration, report and alarms read; needs no torch."""

from dataclasses import dataclass
from typing import Literal

_SLOWER = "raise {momentum} or lower {rate}"
_WARMER = "lower {rate} or raise {temperature}"


@dataclass(frozen=True)
class Mechanism:
    """A way to get the keys that queries are compared with.

    Remedies name settings in braces: momentum, rate, size, temperature, epochs.

    Attributes:
        kind: its name in params.yaml.
        name: its name for people.
        views: views of an image that a step needs.
        in_batch: whether the negatives are the batch's own keys.
        fills: what must be full before the first random keys are gone; None: there are none.
        momentum_encoder: whether a second, slower encoder makes the keys.
        sentence: where its keys come from.
        momentum: what its momentum is of; None: it has none.
        against_collapse: remedy for queries or features that collapse.
        unfilled: what is wrong when random first keys are left at the end; {share} is that of the real ones.
        against_unfilled: remedy for that.
    """

    kind: str
    name: str
    views: int
    in_batch: bool
    fills: Literal["queue", "images"] | None
    momentum_encoder: bool
    sentence: str
    momentum: str | None
    against_collapse: str
    unfilled: str = ""
    against_unfilled: str = ""

    @property
    def encodes_keys(self) -> bool:
        """Whether keys are encoded, in batch-norm groups that can be shuffled."""
        return self.views > 1


_ALL = (
    Mechanism(
        kind="momentum-queue",
        name="MoCo (momentum queue)",
        views=2,
        in_batch=False,
        fills="queue",
        momentum_encoder=True,
        sentence="keys of earlier steps, from an encoder that follows slowly",
        momentum="m, how slowly the key encoder follows the query encoder",
        # Queries are farthest from random keys when all point in one direction, and deep encoders stay there.
        against_collapse=f"{_SLOWER}, or, for a deep encoder, lower {{size}}, whose keys are random at first",
        unfilled="the queue never fills ({share} at the end)",
        against_unfilled="raise {epochs} or lower {size}",
    ),
    Mechanism(
        kind="memory-bank",
        name="memory bank",
        views=1,
        in_batch=False,
        fills="images",
        momentum_encoder=False,
        sentence="every image's own key, as it was when the image was last seen",
        momentum="of an image's key, in the mean with its new query",
        against_collapse=_WARMER,
        unfilled="the memory bank keeps random first keys to the end ({share} of its keys are real then)",
        against_unfilled="raise {epochs} to 2 at least",
    ),
    Mechanism(
        kind="end-to-end",
        name="end-to-end",
        views=2,
        in_batch=True,
        fills=None,
        momentum_encoder=False,
        sentence="the batch's other keys, which take gradient too",
        momentum=None,
        against_collapse=_WARMER,
    ),
    Mechanism(
        kind="momentum-batch",
        name="momentum batch (as in MoCo v3)",
        views=2,
        in_batch=True,
        fills=None,
        momentum_encoder=True,
        sentence="the batch's other keys, from an encoder that follows slowly",
        momentum="m, how slowly the key encoder follows the query encoder",
        against_collapse=_SLOWER,
    ),
)

MECHANISMS = {mechanism.kind: mechanism for mechanism in _ALL}
"""By kind."""
