"""Measurements, each beside something else."""
