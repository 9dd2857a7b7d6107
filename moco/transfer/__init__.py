"""What features are worth when a whole network is fine-tuned on another task (paper, section 4.2)."""
