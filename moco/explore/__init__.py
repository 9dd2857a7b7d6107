"""One page of an encoder's features: images on a map, their neighbors, what is odd or there twice."""
