"""A run on disk: its folder, job, checkpoints and curves, and what its processes agree on."""
