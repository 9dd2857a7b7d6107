"""Fine-tuning a whole network on another task, to judge its features (paper, section 4.2)."""
