"""Files of weights, ours and other people's: what is in them, by the names they use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco.encoders.files.checkpoint import Checkpoint
    from moco.encoders.files.reading import read

__all__ = ["Checkpoint", "read"]
_HOMES = {"Checkpoint": "checkpoint", "read": "reading"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # late, so that what needs a description alone does not wait for torch
        return getattr(import_module(f"moco.encoders.files.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moco.encoders.files' has no attribute {name!r}")
