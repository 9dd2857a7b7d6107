"""Dictionaries of keys for contrastive learning: MoCo's queue, its two rivals, and its successor's batch."""

from moco.dictionary.end_to_end import EndToEnd
from moco.dictionary.info_nce import Contrast, info_nce, info_nce_in_batch
from moco.dictionary.memory_bank import MemoryBank
from moco.dictionary.momentum_batch import MomentumBatch
from moco.dictionary.momentum_queue import MomentumQueue
from moco.dictionary.protocol import Batch, Dictionary

__all__ = [
    "Batch",
    "Contrast",
    "Dictionary",
    "EndToEnd",
    "MemoryBank",
    "MomentumBatch",
    "MomentumQueue",
    "info_nce",
    "info_nce_in_batch",
]
