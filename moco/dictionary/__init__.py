"""Dictionaries of keys: MoCo's queue, its two rivals, and its successor's batch."""
