"""The networks that are fine-tuned."""
