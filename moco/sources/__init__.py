"""What images there are: every source becomes a manifest of hashed images in splits."""
