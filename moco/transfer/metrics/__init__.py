"""What a detector or segmenter is worth, as the field's evaluators count: from 0 to 1, or None."""
