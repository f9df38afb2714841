"""Data sets: where they lie, how they are read, and how training sees them. Import the modules by name."""
