"""Scores: a confusion matrix, what follows from it, and the tables that report it. Import the modules by name."""
