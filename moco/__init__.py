"""Momentum Contrast for unsupervised visual representation learning (He et al., 2019)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco.momentum_contrast import MoCo

__all__ = ["MoCo"]


def __getattr__(name: str) -> Any:
    if name == "MoCo":  # late, so that what needs no torch does not wait for it
        from moco.momentum_contrast import MoCo

        return MoCo
    raise AttributeError(f"module 'moco' has no attribute {name!r}")
