"""Version and name of this package. Imports nothing: `pyproject.toml` reads it, too."""

__version__ = "0.1.0"

DISTRIBUTION = "clouds-dgss"
"""Name under which this package is installed."""
