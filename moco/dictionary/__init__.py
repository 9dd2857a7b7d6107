"""Dictionaries of keys for contrastive learning."""

from moco.dictionary.info_nce import Contrast, info_nce
from moco.dictionary.momentum_queue import MomentumQueue

__all__ = ["Contrast", "MomentumQueue", "info_nce"]
