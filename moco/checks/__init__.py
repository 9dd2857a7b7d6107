"""Checks of a set of images: statistics, a threshold of the settings, a line for a person."""
