"""Data sets: the catalog, built-in, custom and generated sets, and the pairing of their files."""
