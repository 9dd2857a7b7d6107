"""Dictionaries of keys for contrastive learning: MoCo's queue, its two rivals, and its successor's batch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco.dictionary.end_to_end import EndToEnd
    from moco.dictionary.info_nce import Contrast
    from moco.dictionary.memory_bank import MemoryBank
    from moco.dictionary.momentum_batch import MomentumBatch
    from moco.dictionary.momentum_queue import MomentumQueue
    from moco.dictionary.protocol import Batch, Dictionary

__all__ = ["Batch", "Contrast", "Dictionary", "EndToEnd", "MemoryBank", "MomentumBatch", "MomentumQueue"]
_HOMES = {
    "Batch": "protocol",
    "Contrast": "info_nce",
    "Dictionary": "protocol",
    "EndToEnd": "end_to_end",
    "MemoryBank": "memory_bank",
    "MomentumBatch": "momentum_batch",
    "MomentumQueue": "momentum_queue",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # late, so that the descriptions need no torch
        return getattr(import_module(f"moco.dictionary.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moco.dictionary' has no attribute {name!r}")
