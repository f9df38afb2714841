"""Data sets: which there are and where their files lie."""
