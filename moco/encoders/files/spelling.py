"""How programs spell the names of a ResNet's layers, and how these become torchvision's."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from moco.encoders.stem import STEMS, Stem

_OURS = re.compile(r"(conv1|bn1|layer\d+)\.")


@dataclass(frozen=True)
class Spelling:
    """One way to name a ResNet's layers.

    Attributes:
        name: whose it is; empty: torchvision's, which most use.
        first: the first convolution, below a prefix.
        block: the first convolution of the first block, below the same prefix.
        renames: patterns and what takes their place, one after the other.
        head: prefixes of a projection head within the network.
        small_stem: of a 3x3 convolution, where the program has one only.
    """

    name: str
    first: str
    block: str
    renames: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    small_stem: Stem | None = None

    def prefixes(self, names: Collection[str]) -> list[str]:
        """Where ResNets stand that are spelled so."""
        found = (name.removesuffix(self.first) for name in names if name.endswith(self.first))
        return [prefix for prefix in found if prefix[-1:] in ("", ".") and f"{prefix}{self.block}" in names]

    def renamed_names(self, names: Iterable[str]) -> dict[str, str]:
        """Give torchvision's name of each, without its prefix."""
        return {name: self._rename(name) for name in names}

    def _rename(self, name: str) -> str:
        for pattern, new in self.renames:
            name = re.sub(pattern, new, name)
        return name


def _sequential(name: str, first_stage: int, small_stem: Stem | None = None) -> Spelling:
    """Children of a network by number: convolution, norm, …, and four stages."""
    stages = tuple((rf"^{first_stage + number}\.", f"layer{number + 1}.") for number in range(4))
    renames = ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *stages, (r"\.shortcut\.", ".downsample."))
    # behind the stages: average pooling, flattening, and a linear layer where the head is one
    head = (f"{first_stage + 6}.",)
    return Spelling(name, "0.weight", f"{first_stage}.0.conv1.weight", renames, head, small_stem)


SPELLINGS = (
    Spelling("", "conv1.weight", "layer1.0.conv1.weight"),
    _sequential("Sequential", 4),
    _sequential("Sequential without max-pooling", 3, STEMS["small"]),
    _sequential("ResNetGenerator", 2, STEMS["small"]),
    Spelling(
        "detectron2's names",
        "stem.conv1.weight",
        "res2.0.conv1.weight",
        (
            (r"^stem\.(?=conv1\.)", ""),
            (r"^res(\d)\.", lambda found: f"layer{int(found[1]) - 1}."),  # type: ignore[arg-type]
            (r"shortcut\.norm\.", "downsample.1."),
            (r"shortcut\.", "downsample.0."),
            (r"conv(\d)\.norm\.", r"bn\1."),
        ),
        ("stem.fc.",),
    ),
)
_SHORTCUTS = Spelling(
    "ResNetGenerator",
    "conv1.weight",
    "layer1.0.conv1.weight",
    ((r"\.shortcut\.", ".downsample."),),
    small_stem=STEMS["small"],
)


def resnets(names: Collection[str]) -> dict[str, Spelling]:
    """Find every ResNet among names: its prefix and its spelling."""
    found = {prefix: spelling for spelling in SPELLINGS for prefix in spelling.prefixes(names)}
    for prefix, spelling in found.items():
        if spelling is SPELLINGS[0] and any(name.startswith(prefix) and ".shortcut." in name for name in names):
            found[prefix] = _SHORTCUTS
    return found


def of_network(name: str) -> bool:
    """Tell a ResNet's own layers, by torchvision's names, from a classifier or a stray entry."""
    return _OURS.match(name) is not None
