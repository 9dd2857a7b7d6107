"""Which program wrote a file, and where its encoder stands."""

from dataclasses import replace
from pathlib import Path

from moco.encoders.files.keys import Keys
from moco.encoders.files.layouts import LAYOUTS, Layout
from moco.encoders.files.spelling import Spelling, resnets
from moco.errors import MocoError

_PLAIN = Layout("plain names, as of torchvision and timm", "", variants=True)
_OTHER = Layout("weights of another network", "")
_FEW = 4
"""Tensors below a prefix from which on it is a network's."""
_WRAPPERS = ("backbone.", "encoder_q.", "encoder.", "teacher.", "student.", "trunk.", "feature_extractor.", "visual.")


def recognized(keys: Keys, path: Path) -> tuple[Layout, Spelling | None, tuple[str, ...]]:
    """Find the layout of a file.

    Args:
        keys: of the file.
        path: of the file, for errors.

    Returns:
        The layout, named for people; the spelling of its ResNet, None for another network; and the
        prefixes of other encoders of the file that the layout does not name.

    Raises:
        MocoError: several encoders, in no layout that says which is which.
    """
    found = resnets(keys.values)
    chosen = next((layout for layout in LAYOUTS if layout.backbone in found and layout.seen(keys)), None)
    if chosen is None and found:
        prefix = "" if "" in found else min(found)
        if prefix and len(found) > 1:
            raise MocoError(
                f"{path}: holds {len(found)} ResNets, {' and '.join(f'{one}*' for one in found)}, in no known layout;"
                " save the state dict of one"
            )
        chosen = replace(_PLAIN, backbone=prefix, name=f"ResNet behind {prefix}*" if prefix else _PLAIN.name)
    if chosen is not None:
        spelling = found[chosen.backbone]
        plain = chosen.backbone == "" and chosen.name == _PLAIN.name
        if spelling.name:
            chosen = replace(chosen, name=spelling.name if plain else f"{chosen.name} ({spelling.name})")
        named = (chosen.backbone, *chosen.key_backbone)
        others = [prefix for prefix in found if prefix not in named and not prefix.startswith(chosen.ignored)]
        return chosen, spelling, tuple(others)
    for layout in LAYOUTS:
        below = sum(name.startswith(layout.backbone) for name in keys.values) if layout.backbone else 0
        if below >= _FEW and layout.seen(keys):
            return layout, None, ()
    return replace(_OTHER, backbone=_wrapper(keys)), None, ()


def _wrapper(keys: Keys) -> str:
    """Find the prefix of a network that stands alone, or beside its head."""
    prefix = ""
    while True:
        below = [name.removeprefix(prefix) for name in keys.values if name.startswith(prefix)]
        inner = next((word for word in _WRAPPERS if all(name.startswith(word) for name in below)), None)
        if inner is None and not prefix:
            inner = next((word for word in ("backbone.", "encoder_q.") if keys.has(word)), None)
        if inner is None:
            return prefix
        prefix += inner
