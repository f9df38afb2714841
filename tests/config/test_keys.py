"""Every config key has a comment and is read by the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from clouds.config.reference import meanings
from clouds.config.schema import RULES
from tests.config.keys import KNOWN

CLOUDS = Path(__file__).resolve().parents[2] / "clouds"

# The schema accepts one value only, which is also written in the code.
CONSTANT = {"VERSION", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"}


def path_of(node: ast.AST) -> list[str]:
    """["cfg", "MODEL", "DEVICE"] for `cfg.MODEL.DEVICE`; empty for other expressions."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*names, node.id][::-1] if isinstance(node, ast.Name) else []


def sections_named(function: ast.AST) -> dict[str, list[str]]:
    """Local names for sections of the config: `solver = cfg.SOLVER` gives {"solver": ["SOLVER"]}."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            (target,) = node.targets if len(node.targets) == 1 else (None,)
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            for name, value in pairs:
                path = path_of(value)
                if isinstance(name, ast.Name) and path and all(map(str.isupper, path[1:])) and len(path) > 1:
                    found[name.id] = path[1:]
    return found


def keys_read(source: str) -> Iterator[str]:
    """Dotted upper-case paths that a source reads, from the root of the config where that is known."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        sections = sections_named(function)
        for node in ast.walk(function):
            first, *rest = path_of(node) or [""]
            if rest and all(map(str.isupper, rest)):
                yield ".".join([*sections.get(first, []), *rest])


SOURCES = [path for path in CLOUDS.rglob("*.py") if CLOUDS / "config" not in path.parents]
READ = {key for path in SOURCES for key in keys_read(path.read_text(encoding="utf-8"))}


def is_read(key: str) -> bool:
    """Whether the whole path of a key is read, or an end of it from a section that was passed as an argument."""
    parts = key.split(".")
    return any(".".join(parts[start:]) in READ for start in range(len(parts)))


@pytest.mark.parametrize("key", sorted(set(KNOWN) - CONSTANT))
def test_every_key_is_read(key):
    assert is_read(key)


@pytest.mark.parametrize("key", sorted(CONSTANT))
def test_constants_accept_one_value(key):
    assert [value for value in range(-1000, 1000) if RULES[key].accepts(value)] == [KNOWN[key]]


def test_every_key_has_a_comment():
    found = meanings()
    assert set(found) == set(KNOWN)
    assert [key for key, comment in found.items() if not comment] == []


def test_the_search_finds_paths_and_sections():
    source = """
def build(cfg, part):
    solver, name = cfg.SOLVER, cfg.MODEL.NAME
    clip = cfg.SOLVER.CLIP
    return solver.AMP.DTYPE, clip.ENABLED, part.TYPE, cfg.SEED
"""
    assert {"MODEL.NAME", "SOLVER.AMP.DTYPE", "SOLVER.CLIP.ENABLED", "TYPE", "SEED"} <= set(keys_read(source))
    assert "ENABLED" not in set(keys_read(source))
