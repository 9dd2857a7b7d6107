"""Scenes composed of real items: a small set for detection and segmentation."""
