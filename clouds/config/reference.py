"""The table of all config keys, `docs/CONFIG.md`.

Types and defaults are those of `clouds.config.defaults`, meanings its comments, and ranges the rules of
`clouds.config.schema`. After a change of these, write the table again:

    python -m clouds.config.reference > docs/CONFIG.md
"""

import ast
import io
import itertools
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from clouds.config import defaults
from clouds.config.defaults import DEFAULTS, IGNORED_KEYS, IGNORED_SECTIONS
from clouds.config.keys import leaves
from clouds.config.schema import RULES

_HEADER = """\
# Config keys

<!-- Written by: python -m clouds.config.reference > docs/CONFIG.md -->

A key is set in a YAML file or on the command line, see
[Change a config key](../GETTING_STARTED.md#change-a-config-key). Values are checked before anything starts: a value of
another type or outside its range is an error that names the key. Whole numbers are accepted where a number is asked
for, and a list may be written as `[1, 2]` or `(1, 2)`. Names in a registry are looked up before anything is built.
"""

_IGNORED = """
## Ignored keys

Published configs and detectron2's dumps contain these keys. They have no effect here and are reported in one line of
the log: {keys}.
"""

_TYPES = {bool: "switch", int: "whole number", float: "number", str: "text", list: "list", tuple: "list"}


def reference() -> str:
    """Return the table of all config keys as Markdown, with one table for each section of the config."""
    meaning = meanings()
    text = _HEADER
    for section, keys in itertools.groupby(leaves(DEFAULTS), key=lambda item: item[0].rpartition(".")[0].split(".")[0]):
        text += f"\n## {section or 'General'}\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n"
        for key, default in keys:
            accepted = RULES[key].wanted if key in RULES else "True or False"
            cells = (f"`{key}`", _TYPES[type(default)], f"`{default!r}`", accepted, meaning[key])
            text += f"| {' | '.join(map(_cell, cells))} |\n"
    ignored = sorted([*(f"{name}.*" for name in IGNORED_SECTIONS), *IGNORED_KEYS])
    return text + _IGNORED.format(keys=", ".join(f"`{key}`" for key in ignored))


def meanings() -> dict[str, str]:
    """Return the comment of each config key in `clouds.config.defaults`, on its line or on the lines above it."""
    source = Path(defaults.__file__).read_text(encoding="utf-8")
    comments = {
        token.start[0]: (token.line.lstrip().startswith("#"), token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }

    def comment(line: int) -> str:
        if line in comments:
            return comments[line][1]
        above = []
        while comments.get(line - 1, (False, ""))[0]:
            line -= 1
            above.append(comments[line][1])
        return " ".join(reversed(above))

    (tree,) = (node.value for node in ast.parse(source).body if isinstance(node, ast.AnnAssign))
    assert isinstance(tree, ast.Dict)
    return {key: comment(line) for key, line in _lines(tree)}


def _lines(tree: ast.Dict, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of each key in a nested dict display."""
    for key, value in zip(tree.keys, tree.values, strict=True):
        assert isinstance(key, ast.Constant)
        name = f"{prefix}{key.value!s}"
        if isinstance(value, ast.Dict):
            yield from _lines(value, f"{name}.")
        else:
            yield name, key.lineno


def _cell(text: str) -> str:
    """Escape the characters with a meaning in the cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(reference())
