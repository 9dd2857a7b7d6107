"""Near-duplicates: hashes propose pairs, the likeness of features decides."""
