"""The one exception that is meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what to do. Command lines print it and exit with 2."""


def check_name(setting: str, name: str, known: Iterable[str]) -> None:
    """`UserError` with the nearest of the `known` names unless `name`, which `setting` holds, is one of them."""
    known = sorted(known)
    if name not in known:
        nearest = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0)) or "none"
        raise UserError(f"{setting} names {name!r}, which does not exist; the nearest that do: {nearest}.")
