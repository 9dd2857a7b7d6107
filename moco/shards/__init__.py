"""A manifest becomes WebDataset tars and their index."""
