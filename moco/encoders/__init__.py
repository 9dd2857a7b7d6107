"""Encoders: networks, heads, batch norm in groups, and the files that hold them."""
