"""Checks of plain values from files that anybody may have edited or damaged."""

import math
import sys
from typing import Any


def is_integer(value: Any, low: float = 0, high: float = math.inf) -> bool:
    """Return whether a value is an int, and no bool, from `low` to `high`, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any) -> bool:
    """Return whether a value is a finite float, or an int that a float can hold, and no bool."""
    # A comparison, since `math.isfinite` raises an exception for an int beyond the range of a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
