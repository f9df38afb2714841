"""Evaluation: confusion matrix, boundary IoU, tables, label files and submissions. Import the modules by name."""
