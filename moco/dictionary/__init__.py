"""Dictionaries of keys for contrastive learning: MoCo's queue, its two rivals, and its successor's batch."""
