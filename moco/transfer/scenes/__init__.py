"""Scenes composed of real items: a set for detection and segmentation without a download."""
