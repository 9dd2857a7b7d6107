"""Features of frozen encoders, and what can be read off them without training."""
