"""Reading only: the index, decoding, the order of images, views, and batches prepared ahead."""
