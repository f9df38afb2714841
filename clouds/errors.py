"""Exception for errors that the user can correct."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Error in the user's input. The message is one sentence: what is wrong, where, and what to do.

    Commands print the message without a traceback and exit with code 2.
    """


def check_name(setting: str, name: str, known: Iterable[str]) -> None:
    """Check that a name exists.

    Args:
        setting: config key or flag with the name, for the message.
        name: name to check.
        known: names that exist.

    Raises:
        UserError: the name does not exist; the message lists the most similar ones.
    """
    known = sorted(known)
    if name not in known:
        nearest = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0)) or "none"
        raise UserError(f"{setting} names {name!r}, which does not exist; the nearest that do: {nearest}.")
