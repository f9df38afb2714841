"""Mutations of values, trees of values, bytes and files."""

import base64
import copy
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Tree = Any
"""Nested lists and dicts of plain values, as YAML and JSON hold them."""

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 256, 65535, 65536, 2**31, 2**63, -(2**63), 10**9, 10**18, 10**400),
    *(0.0, -0.0, 0.5, -3.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "-1", "nan", "inf", "1e999", "null", "True", "[]", "{}", "{[]:1}", "(1,", "((1, 2)", "__import__"),
    *(
        ".",
        "..",
        "../..",
        "../../outside",
        "/",
        "/etc/passwd",
        "~",
        "~nobody/x",
        "a/b",
        "a\\b",
        "a//b/",
        "*",
        "**",
        "?",
    ),
    *("\x00", "a\x00b", "\n", "a\nb", "\r", "\t", "\x1b[31mred", "\u2028", "\u0085", "\ufeff", "\u202e", "\ud800"),
    *("é", "日本語", "🙂" * 3, "%s", "{0}", "$HOME", "-" * 20_000, "a" * 400, "a" * 5000, "9" * 5000, "(" * 500),
    *([], {}, [None], [[]], [[[]]], [1, 2, 3], [0] * 300, ["a", "a"], {"": 1}, {"a": {"b": 1}}, {"name": "x"}),
)
"""Values that a file or a command line may hold where another one is expected."""

_DEPTHS = (60, 110, 150, 250)  # deeper ones cannot be copied; bytes have them
_NUMBERS = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
)


def hostile_value(rng: random.Random) -> Tree:
    """Return a value of `HOSTILE`, or a list or dict that is nested deeply."""
    if rng.random() < 0.97:
        return copy.deepcopy(rng.choice(HOSTILE))
    value: Tree = 1
    for _ in range(rng.choice(_DEPTHS)):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutate_tree(rng: random.Random, tree: Tree, count: int = 1) -> Tree:
    """Return a copy of a tree with `count` changes.

    A change replaces, removes, repeats, swaps, nests, renames or retypes one entry.
    """
    holder = [copy.deepcopy(tree)]
    for _ in range(count):
        parent, key = _place(rng, holder)
        rng.choice(_CHANGES)(rng, parent, key)
    return holder[0]


def _place(rng: random.Random, holder: list[Tree]) -> tuple[Any, Any]:
    """Return the container and the key of a random entry; all depths are equally likely, not all entries."""
    parent: Any = holder
    key: Any = 0
    while isinstance(parent[key], list | dict) and parent[key] and rng.random() < (0.95 if parent is holder else 0.75):
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    return parent, key


def _replace(rng: random.Random, parent: Any, key: Any) -> None:
    parent[key] = hostile_value(rng)


def _remove(rng: random.Random, parent: Any, key: Any) -> None:
    if isinstance(parent, dict) or len(parent) > 1:
        del parent[key]
    else:
        _replace(rng, parent, key)


def _repeat(rng: random.Random, parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent[f"{key}{rng.choice(('', '_', '2', ' '))}"] = copy.deepcopy(parent[key])
    else:
        parent[key:key] = [copy.deepcopy(parent[key])] * rng.choice((1, 1, 2, 300))


def _swap(rng: random.Random, parent: Any, key: Any) -> None:
    other = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    parent[key], parent[other] = parent[other], parent[key]


def _nest(rng: random.Random, parent: Any, key: Any) -> None:
    parent[key] = rng.choice(([parent[key]], {"a": parent[key]}, {str(key): parent[key]}, [[parent[key]], 1]))


def _rename(rng: random.Random, parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent[rng.choice((str(key).upper(), f"{key}x", "", 0, None, 1.5, True, hostile_text(rng)))] = parent.pop(key)
    else:
        _replace(rng, parent, key)


def _retype(rng: random.Random, parent: Any, key: Any) -> None:
    value = parent[key]
    if isinstance(value, bool | int | float):
        parent[key] = rng.choice(
            (str(value), [value], -value, value + 1, value * 1000, value / 7 if abs(value) < 1e9 else 0.5, bool(value))
        )
    elif isinstance(value, str):
        parent[key] = rng.choice((value.upper(), value + hostile_text(rng), value[:-1], [value], list(value[:50]), 7))
    elif isinstance(value, dict):
        parent[key] = rng.choice((list(value), list(value.values()), str(list(value))[:500], None))
    else:
        parent[key] = rng.choice(("[]", dict(enumerate(value if isinstance(value, list) else ())), 1, None))


_CHANGES: tuple[Callable[[random.Random, Any, Any], None], ...] = (
    *(_replace, _replace, _replace, _remove, _repeat, _swap, _nest, _rename, _retype),
)


def hostile_text(rng: random.Random) -> str:
    """Return a text of `HOSTILE`."""
    return rng.choice([value for value in HOSTILE if isinstance(value, str)])


def json_bytes(rng: random.Random, tree: Tree) -> bytes:
    """Return a tree as JSON: NaN, deep nesting, surrogates and repeated keys as they come."""
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)), skipkeys=True)
    except (RecursionError, ValueError):  # ValueError: a whole number of more than 4,300 digits
        text = "[" * 3000 + "]" * 3000
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(rng: random.Random, data: bytes, count: int = 1) -> bytes:
    """Return bytes with `count` changes: flipped, truncated, moved, repeated, removed, extended or encoded anew."""
    for _ in range(count):
        data = rng.choice(_BYTE_CHANGES)(rng, data)
    return data


def _span(rng: random.Random, data: bytes, longest: int = 64) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randrange(1, longest))


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, len(data) - 1, len(data) // 2, rng.randrange(len(data) + 1)))]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start, _ = _span(rng, data)
    text = hostile_text(rng)[:300].encode("utf-8", "surrogatepass")
    added = rng.choice((rng.randbytes(rng.randrange(1, 64)), text, text, rng.choice((b"[", b'{"a":', b"- ")) * 5000))
    return data[:start] + added + data[start:]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start, _ = _span(rng, data)
    number = rng.choice(_NUMBERS)
    return data[:start] + number + data[start + len(number) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _splice(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data, 512)
    target, _ = _span(rng, data)
    return data[:target] + data[start:end] + data[target:]


def _extend(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\x00" * 100, b"\n", b"\n\n\x00", rng.randbytes(300), data[:2000]))


def _encode(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        (
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.decode("utf-8", "replace").encode("utf-16"),
            lambda: data.decode("utf-8", "replace").encode("latin-1", "replace"),
            lambda: data.replace(b"\n", b"\r\n"),
            lambda: data.replace(b"\n", b"\r"),
            lambda: base64.b64encode(data[:2000]),
        )
    )()


_BYTE_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _flip, _truncate, _insert, _overwrite, _cut, _splice, _extend, _encode),
)


def mutate_file(rng: random.Random, path: Path) -> None:
    """Replace a file by something that is no file of content: nothing, a folder, a dangling or circular link."""
    path.unlink(missing_ok=True)
    what = rng.choice(("missing", "empty", "folder", "full folder", "dangling", "circle"))
    if what == "empty":
        path.touch()
    elif "folder" in what:
        path.mkdir()
        if what == "full folder":
            (path / "1").write_text("1")
    elif what == "dangling":
        path.symlink_to(path.with_name("nothing"))
    elif what == "circle":
        path.symlink_to(path.name)


def copy_files(source: Path, target: Path) -> None:
    """Copy the valid files of a kind of input into the folder of one input."""
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def weighted(rng: random.Random, *choices: tuple[int, Any]) -> Any:
    """Return a choice; each is a pair of weight and value."""
    weights: Sequence[int] = [weight for weight, _ in choices]
    return rng.choices([value for _, value in choices], weights)[0]
