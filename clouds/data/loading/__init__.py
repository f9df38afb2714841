"""Loading of data sets: augmentation, mappers, samplers, loaders."""
