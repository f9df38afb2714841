"""Checked values of a plan file: each mistake is one sentence with the file and the row."""

import re
import shlex
from collections.abc import Collection, Iterable
from typing import Any

from clouds.errors import UserError
from clouds.utils.values import is_integer, is_number

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_MOST_SEEDS = 1000
_LARGEST_SEED = 2**63 - 1
_MOST_STEPS = 10**9


class Section:
    """A mapping of a plan file.

    Args:
        content: its values; must be a mapping.
        where: name of the file and of the section, the beginning of every message.
        name: key of the section in the mapping that contains it.

    Raises:
        UserError: `content` is no mapping.
    """

    def __init__(self, content: Any, where: str, name: str = "") -> None:
        self.where, self.name = where, name
        if not isinstance(content, dict):
            raise self.error("is no mapping", "write KEY: VALUE on lines of their own")
        self.content: dict[str, Any] = content

    def error(self, what: str, remedy: str) -> UserError:
        """Return the error with its place and what to do."""
        return UserError(f"{self.where} {what}: {remedy}.")

    def check_keys(self, known: Collection[str]) -> None:
        """Raise a `UserError` if there is another key."""
        for key in self.content:
            if key not in known:
                raise self.error(f"has the unknown key {key}", f"there are {', '.join(known)}")

    def check_name(self, reserved: Collection[str] = ()) -> None:
        """Raise a `UserError` if the name of this section cannot be that of a folder."""
        if not _NAME.fullmatch(self.name) or self.name in reserved:
            raise self.error(
                "has a name that no folder can have here", "use letters, digits, _, - and . in another one"
            )

    def check_known(self, key: str, names: Iterable[str], known: Collection[str], kind: str) -> None:
        """Raise a `UserError` if the value of a key names something that there is not."""
        for name in names:
            if name not in known:
                there = f"there are {', '.join(known)}" if known else "there is none"
                raise self.error(f"names {name} in {key}, which is no {kind}", there)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; without a default it is required and not empty."""
        value = self.content.get(key, default)
        if value is None or (value == "" and default is None):
            raise self.error(f"has no {key}", "add it")
        if not isinstance(value, str):
            raise self.error(f"has {value!r} as its {key}, which is no text", "put it in quotes")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of different texts; none by default."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str) or values.count(value) > 1:
                raise self.error(f"has {value!r} in {key}", "give a list of different texts")
        return tuple(values)

    def words(self, key: str) -> tuple[str, ...]:
        """Return a command, which is a text in the syntax of a shell or a list of words."""
        value = self.content.get(key)
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                raise self.error(f"has a {key} that cannot be read ({error})", "close the quotes") from error
        if not isinstance(value, list) or not value:
            raise self.error(f"has no {key}", "give a program and its arguments, as a text or as a list")
        return tuple(map(str, value))

    def count(self, key: str, default: int) -> int:
        """Return a whole number of at least 1."""
        value = self.content.get(key, default)
        if not is_integer(value, 1, _MOST_STEPS):
            raise self.error(f"has {value!r} as its {key}", "give a whole number of at least 1")
        return int(value)

    def seeds(self, key: str) -> tuple[int, ...]:
        """Return seeds, given as a list or by their number; one by default."""
        value = self.content.get(key, 1)
        if is_integer(value, 1, _MOST_SEEDS):
            return tuple(range(1, value + 1))
        if not isinstance(value, list) or not value or len(set(map(repr, value))) < len(value):
            raise self.error(f"has {value!r} as its {key}", f"give a number up to {_MOST_SEEDS:,} or a list of seeds")
        for seed in value:
            if not is_integer(seed, 0, _LARGEST_SEED):
                raise self.error(f"has the seed {seed!r}", "give whole numbers of at least 0")
        return tuple(value)

    def settings(self, key: str) -> tuple[str, ...]:
        """Return the `KEY VALUE` pairs of a mapping of config keys, as on a command line."""
        section = self.section(key)
        pairs: list[str] = []
        for name, value in section.content.items() if section else ():
            if value is None or isinstance(value, dict):
                raise self.error(f"sets {name} to {value!r}", "write config keys with dots, and their values")
            pairs += [
                name,
                value if isinstance(value, str) else str(tuple(value) if isinstance(value, list) else value),
            ]
        return tuple(pairs)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """Return a list of pairs of different texts; none by default."""
        pairs = []
        for value in self._list(key):
            is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)
            if not is_pair or value[0] == value[1]:
                raise self.error(f"has {value!r} in {key}", "give pairs of two rows, such as [joint, warmup]")
            pairs.append((value[0], value[1]))
        return tuple(pairs)

    def section(self, key: str) -> "Section | None":
        """Return the section with a name; None if there is none."""
        if self.content.get(key) is None:
            return None
        return Section(self.content[key], f"{self.where}, {key}", key)

    def sections(self, key: str, *, optional: bool = False) -> "list[Section]":
        """Return the sections in a mapping, in order."""
        found = self.section(key)
        if found is None:
            if optional:
                return []
            raise self.error(f"has no {key}", "add them")
        kind = "row" if key == "rows" else key
        return [Section(value, f"{self.where}, {kind} {name}", name) for name, value in found.content.items()]

    def mapping_of_texts(self, key: str) -> dict[str, str]:
        """Return a mapping of texts; empty by default."""
        section = self.section(key)
        return {name: section.text(name) for name in section.content} if section else {}

    def numbers(self) -> dict[str, float]:
        """Return the values of this section, which are percentages."""
        for name, value in self.content.items():
            if not is_number(value) or not 0 <= value <= 100:
                raise self.error(f"has {value!r} for {name}", "give a percentage from 0 to 100")
        return {name: float(value) for name, value in self.content.items()}

    def _list(self, key: str) -> list[Any]:
        value = self.content.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(f"has {value!r} as its {key}", "give a list, such as [a, b]")
        return value or []
