"""Interface of a kind of input."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEYS = re.compile(r"\b[A-Z][A-Z0-9_]{2,}(\.[A-Z0-9_]+)*\b")
"""Config keys and environment variables."""
NO_KEYS = re.compile(r"(?!)")
"""Messages about this kind name a file."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        write: writes a mutated input into an empty folder with a random generator, and returns what `read` needs.
        read: reads the input with the public functions of CLOUDS: (folder, what `write` returned).
        names: config keys, variables or flags that a message may name instead of a file of the input.
    """

    write: Callable[[Path, random.Random], Any]
    read: Callable[[Path, Any], None]
    names: re.Pattern[str] = NO_KEYS
