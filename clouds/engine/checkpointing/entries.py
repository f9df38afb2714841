"""Types of the entries of a checkpoint other than weights and states of parts."""

import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from clouds.utils.values import is_integer, is_number

Rule = tuple[Callable[[Any], bool], str]
"""Check of a value, and a description of the values that pass."""


def find_wrong_entry(content: Mapping[Any, Any], rules: Mapping[str, Rule] | None = None) -> str:
    """Find an entry of another type than `Checkpointer` writes.

    Args:
        content: content of a checkpoint; entries may be missing, and unknown ones are not checked.
        rules: rule of each entry by name; default: `ENTRIES`.

    Returns:
        The name and the value of the first such entry, as in "'iteration' is 'abc' and should be an integer of at
        least 0"; "" if there is none.
    """
    for name, (holds, wanted) in (ENTRIES if rules is None else rules).items():
        if name in content and not holds(content[name]):
            return f"'{name}' is {reprlib.repr(content[name])} and should be {wanted}"
    return ""


def _is_iteration(value: Any) -> bool:
    return is_integer(value, high=2**31 - 1)  # the writers of training curves hold no more


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _are_channels(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_number, value))


def _are_settings(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_plain, value.values()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_history(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(name) and _is_series(value[name]) for name in value)


def _is_series(value: Any) -> bool:
    """Whether a value is (whether writers smooth it, its newest (value, iteration) pairs)."""
    if not (isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], bool)):
        return False
    pairs = value[1]
    return isinstance(pairs, list) and bool(pairs) and all(map(_is_observation, pairs))


def _is_observation(value: Any) -> bool:
    # The value may be NaN, such as the IoU of a class without a pixel.
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and (isinstance(value[0], float) or is_number(value[0])) and is_integer(value[1], low=-sys.maxsize)


ENTRIES: dict[str, Rule] = {
    "iteration": (_is_iteration, "an integer from 0 to 2147483647"),
    "seed": (is_integer, "an integer of at least 0"),
    "score": (is_number, "a number"),
    "selected_on": (_is_text, "a text"),
    "history": (_is_history, "values of scalars by name"),
    "run": (_is_text, "a text"),
    "settings": (_are_settings, "plain values by config key"),
    "classes": (_are_names, "a list of names"),
    "pixel_mean": (_are_channels, "a list of numbers"),
    "pixel_std": (_are_channels, "a list of numbers"),
    "tower": (_is_text, "a text"),
    "tower_sha256": (_is_text, "a text"),
}
"""Entries by name, each with a check of its value and a description of the values that pass."""
