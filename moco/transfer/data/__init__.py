"""Annotated images: reading, checking and loading them."""
