"""A page of an encoder's features: images on a map, neighbors, what is odd or there twice."""
