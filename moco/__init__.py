"""Momentum Contrast for unsupervised visual representation learning (He et al., 2019)."""
