"""Conversion of values from files and command lines to the types of the defaults."""

from __future__ import annotations

import ast
import sys
from typing import Any

from clouds.config.defaults import DEFAULTS
from clouds.config.keys import value_of
from clouds.errors import UserError

# Lists whose default is empty hold names, except these.
_NUMBERS = frozenset({"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"})

_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def typed(key: str, value: Any, where: str) -> Any:
    """Convert a value from a file or a command line to the type of its default.

    A text is read as a Python literal unless the default is a text. A whole number becomes a fraction, and lists and
    tuples become each other, where the default asks for it.

    Args:
        key: dotted name of a key in `DEFAULTS`.
        value: the value as read.
        where: source of the value for the message, such as "on the command line".

    Raises:
        UserError: the value is of another type.
    """
    return _typed(value, value_of(DEFAULTS, key), f"{key} {where}", float if key in _NUMBERS else str)


def shown(value: Any) -> str:
    """Return a value as Python source, for a message."""
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def _typed(value: Any, default: Any, where: str, entry: type) -> Any:
    kind = type(default)
    if isinstance(value, str):
        value = _literal(value, wanted=kind)
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is str and value is None:  # published dumps have WANDB.NAME: null
        return ""
    if kind in (list, tuple) and isinstance(value, list | tuple):
        sample = default[0] if default else entry()
        return kind(_typed(item, sample, f"each entry of {where}", entry) for item in value)
    if type(value) is not kind:
        raise UserError(f"{where} must be {_KINDS[kind]}{_example(default, entry)}, not {shown(value)}.")
    return value


def _example(default: Any, entry: type) -> str:
    if isinstance(default, list | tuple) and not default:
        return " such as ('a', 'b')" if entry is str else ""
    return f" such as {default}" if default != "" else ""


def _literal(text: str, wanted: type) -> Any:
    if wanted is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the documented ones
        return float(text) if wanted is float and text in ("inf", "-inf", "nan") else text
    return text if wanted is str and not isinstance(value, str) else value
