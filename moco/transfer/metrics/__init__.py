"""The field's metrics of detection and segmentation: fractions from 0 to 1, None if undefined."""
