"""Pretraining: the loop, its schedules, readings and log."""
