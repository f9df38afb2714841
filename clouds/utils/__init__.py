"""General helpers, unaware of segmentation: files, images, JSON lines, digests, processes."""
