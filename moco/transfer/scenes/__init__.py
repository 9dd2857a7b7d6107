"""Scenes composed of real items: a data set for detection and segmentation that needs no download."""
