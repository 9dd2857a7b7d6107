"""Reading images: index, decode, plan, views, loader, streams."""
