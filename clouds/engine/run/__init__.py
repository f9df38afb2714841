"""A run in its output folder: its identity, its record, its rows of metrics, and the files of earlier runs."""
