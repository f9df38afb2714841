"""Small tools that know nothing of segmentation: files, images, processes."""
