"""What images there are: every source becomes a manifest of hashed images, each on one side of the split."""
