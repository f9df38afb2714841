"""Dotted names and defaults of all config keys."""

from clouds.config.defaults import DEFAULTS
from clouds.d2 import CfgNode


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


KNOWN = dict(leaves(DEFAULTS))


def value_of(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
