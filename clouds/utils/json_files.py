"""Strict reading of JSON from files that anybody may have edited or damaged.

Stricter than `json`, and like the standard (RFC 8259): UTF-8 without a byte order mark, no `NaN` or `Infinity`, no
number that a float cannot hold, no key twice in an object, no half of a surrogate pair, and a bounded depth. A value
that was read can be written, compared and sent to another process.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from clouds.errors import UserError

Kind = TypeVar("Kind", dict[str, Any], list[Any])

MAX_DEPTH = 100  # lists and objects inside each other
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NAMES = {dict: "a JSON object", list: "a JSON list"}


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text.

    Args:
        data: the whole text.

    Raises:
        ValueError: the text is not strict JSON. The message is a short reason, to be put into a sentence.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it starts with a byte order mark")
    if not data.strip():
        raise ValueError("it is empty")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text at byte {error.start}") from error
    try:
        value = json.loads(
            text, parse_float=_float, parse_int=_int, parse_constant=_refuse_constant, object_pairs_hook=_object
        )
        deep = _is_deep(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}, column {error.colno}") from error
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"lists and objects lie more than {MAX_DEPTH} deep inside each other")
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text has half of a surrogate pair") from error
    return value


def read_json(file: Path, kind: type[Kind], remedy: str) -> Kind:
    """Return the object or the list that a JSON file holds.

    Args:
        file: path of the file.
        kind: `dict` for an object, `list` for a list.
        remedy: advice about a file that cannot be read, the end of the error message.

    Raises:
        UserError: the file cannot be read, is not strict JSON, or holds another kind of value.
    """
    try:
        value = parse_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): {remedy}.") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged, it is not JSON ({error}): {remedy}.") from error
    if not isinstance(value, kind):
        raise UserError(f"{file} does not hold {_NAMES[kind]}: {remedy}.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in found if counts[key] > 1)
        raise ValueError(f"an object has the key {twice[:40]!r} twice")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _int(text: str) -> int:
    _float(text)  # Python itself has a limit of 4,300 digits, and whole numbers beyond 1e308 have no float
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
    return any(isinstance(each, dict | list) for each in level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
