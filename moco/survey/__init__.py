"""What each image of a shard set is, in numbers: one pass, kept for the next version."""
