"""Label maps and predictions as pictures. Import the modules by name."""
