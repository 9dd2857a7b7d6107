"""Momentum Contrast for unsupervised visual representation learning (He et al., 2019)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco.dictionary.momentum_queue import MomentumQueue
    from moco.momentum_contrast import Encoder, MoCo

__all__ = ["Encoder", "MoCo", "MomentumQueue"]
_HOMES = {
    "Encoder": "moco.momentum_contrast",
    "MoCo": "moco.momentum_contrast",
    "MomentumQueue": "moco.dictionary.momentum_queue",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # late, so that what needs no torch does not wait for it
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moco' has no attribute {name!r}")
