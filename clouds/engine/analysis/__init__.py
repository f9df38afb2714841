"""Cost of a network by part: parameters, floating-point operations, memory and time. See ``clouds analyze --help``."""
