"""What features are worth when a whole network is fine-tuned on another task (section 4.2)."""
