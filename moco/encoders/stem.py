"""The first layers of a ResNet as a value: what a name stands for, and what a person states."""

import re
from dataclasses import dataclass

from moco.errors import MocoError


@dataclass(frozen=True)
class Stem:
    """One convolution and, behind it, 3x3 max-pooling of stride 2 or none.

    Its text is its name in `STEMS`, or all four values: "3x3-stride1-padding2-nopool".

    Attributes:
        kernel: side of the convolution's kernel, pixels.
        stride: of the convolution, pixels.
        padding: of the convolution, pixels.
        pool: whether max-pooling follows.
    """

    kernel: int
    stride: int
    padding: int
    pool: bool

    def __str__(self) -> str:
        named = next((name for name, stem in STEMS.items() if stem == self), None)
        pool = "pool" if self.pool else "nopool"
        return named or f"{self.kernel}x{self.kernel}-stride{self.stride}-padding{self.padding}-{pool}"


STEMS = {
    "imagenet": Stem(7, 2, 3, pool=True),
    "small": Stem(3, 1, 1, pool=False),
    "small-stride2": Stem(3, 2, 1, pool=False),
}
PATTERN = r"imagenet|small|small-stride2|(\d)x\1-stride[1-8]-padding\d-(no)?pool"
"""What the text of a stem looks like."""


def stem_of(text: str | Stem) -> Stem:
    """Read a stem from its name or its values.

    Raises:
        MocoError: it is neither.
    """
    if isinstance(text, Stem):
        return text
    if text in STEMS:
        return STEMS[text]
    if not re.fullmatch(PATTERN, text):
        raise MocoError(
            f"stem = {text!r} is no known stem; choose one of {', '.join(STEMS)}, or write its values, such as"
            " 3x3-stride1-padding2-nopool"
        )
    kernel, stride, padding = (int(digit) for digit in re.findall(r"\d", text)[1:])
    return Stem(kernel, stride, padding, pool=not text.endswith("-nopool"))
