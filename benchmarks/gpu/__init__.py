"""The proof on a GPU: what must be right there, and how fast it is (docs/gpu.md)."""
