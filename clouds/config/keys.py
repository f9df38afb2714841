"""Dotted names of config keys, such as ``SOLVER.MAX_ITER``."""

from collections.abc import Container, Iterator, Mapping
from typing import Any


def leaves(tree: Mapping[str, Any], prefix: str = "", keys: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value of a tree that is not a section.

    Args:
        tree: nested dicts.
        prefix: beginning of every key.
        keys: dotted keys that are no sections even if their value is a dict. An empty dict is never a section.
    """
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in keys:
            yield from leaves(value, f"{key}.", keys)
        else:
            yield key, value


def value_of(tree: Any, key: str) -> Any:
    """Return the value of a dotted key in nested dicts.

    Raises:
        KeyError: a part of the key is missing.
        TypeError: a part of the key names a value that is no dict.
    """
    for part in key.split("."):
        tree = tree[part]
    return tree
