"""Encoders: networks, heads, batch norm in groups, and the files that hold them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco.encoders.build import build_encoder
    from moco.encoders.frozen import load_encoder, save_encoder

__all__ = ["build_encoder", "load_encoder", "save_encoder"]
_HOMES = {"build_encoder": "build", "load_encoder": "frozen", "save_encoder": "frozen"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # late, so that what reads a description alone does not wait for torch
        return getattr(import_module(f"moco.encoders.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moco.encoders' has no attribute {name!r}")
