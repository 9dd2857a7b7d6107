"""What images there are: a source becomes a manifest of hashed images, each in one split."""
