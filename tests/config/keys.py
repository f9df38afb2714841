"""Dotted names and defaults of all config keys."""

from clouds.config.defaults import DEFAULTS
from clouds.config.keys import leaves

KNOWN = dict(leaves(DEFAULTS))
