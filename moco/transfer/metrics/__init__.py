"""What a detector or a segmenter is worth, as the field's own evaluators count: fractions from 0 to 1, None where undefined."""
