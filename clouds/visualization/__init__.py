"""Images of label maps, predictions and pseudo-labels. Import the modules by name."""
