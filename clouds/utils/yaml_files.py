"""Reading of YAML files: plain text, numbers, lists and mappings, and one sentence for everything else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clouds.errors import UserError

# Limits far above every file of this project. They bound the time and the memory that a hostile file can take.
_MAX_BYTES = 1_000_000
_MAX_VALUES = 100_000
_MAX_DEPTH = 50
_MAX_DIGITS = 100

_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"
_SCALARS = frozenset(f"{_PREFIX}{name}" for name in ("null", "bool", "int", "float", "str"))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for which a date such as 2026-11-27 is a text."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag in _SCALARS | {_MERGE}]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: Path, kind: str) -> Any:
    """Read a YAML file with one document.

    Args:
        path: file to read.
        kind: kind of the file, the beginning of every message, such as "Config file".

    Returns:
        None for an empty file, otherwise nested dicts with texts as keys, lists, texts, numbers, booleans and None.

    Raises:
        UserError: the file cannot be read, is larger than 1 MB or not UTF-8, or `parse_yaml` rejects its text.
    """
    name = f"{kind} {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be read ({reason}).") from error
    if len(content) > _MAX_BYTES:
        raise UserError(f"{name} is larger than 1 MB: give a YAML file.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not YAML: byte {error.start + 1} is not UTF-8; give a text file that is saved as UTF-8."
        ) from error
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text with one document.

    Texts, numbers, booleans and None are read as in YAML 1.1; dates are texts. Aliases and merge keys are resolved.

    Args:
        text: the YAML text.
        name: name of its source, the beginning of every message.

    Returns:
        None for an empty text, otherwise nested dicts with texts as keys, lists, texts, numbers, booleans and None.

    Raises:
        UserError: the text is not YAML; a key is repeated in its mapping or is not a text; a value refers to itself,
            is nested too deeply, has another tag or is a number that is too long; or aliases multiply the values.
    """
    try:
        loader = _Loader(text)  # checks for control characters
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Checker(loader, name).check(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{name} is not YAML: {_reason(error)}.") from error


class _Checker:
    """Checks a tree of YAML nodes before values are constructed from it.

    Args:
        loader: loader that composed the nodes.
        name: name of the source, the beginning of every message.
    """

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader = loader
        self.name = name
        self.values = 0

    def check(self, node: yaml.Node, above: tuple[yaml.Node, ...] = ()) -> None:
        """Check a node and all nodes below it; `above` has the nodes that contain it.

        Raises:
            UserError: the node is not part of a plain tree.
        """
        self.values += 1
        if any(node is other for other in above):
            raise self._error(node, "a value refers to itself")
        if len(above) > _MAX_DEPTH:
            raise self._error(node, f"values are nested deeper than {_MAX_DEPTH} levels")
        if self.values > _MAX_VALUES:
            raise self._error(node, f"there are more than {_MAX_VALUES} values, counting each use of an alias")
        above = (*above, node)
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
            self._check_keys([key for key, _ in node.value])
            for _, value in node.value:
                self.check(value, above)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
            for value in node.value:
                self.check(value, above)
        else:
            raise self._error(node, f"the tag {_shown(node.tag)} is not supported: remove it")

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        if node.tag not in _SCALARS:
            raise self._error(node, f"the tag {_shown(node.tag)} is not supported: remove it")
        is_number = node.tag in (f"{_PREFIX}int", f"{_PREFIX}float")
        if is_number and len(node.value) > _MAX_DIGITS:
            raise self._error(node, f"a number has more than {_MAX_DIGITS} digits")
        try:
            self.loader.construct_object(node)
        except (ValueError, LookupError) as error:  # such as 0x_, or a text with the tag !!int
            raise self._error(node, f"{node.value!r} is no {_shown(node.tag).lstrip('!')}") from error

    def _check_keys(self, nodes: Sequence[yaml.Node]) -> None:
        lines: dict[str, int] = {}
        for node in nodes:
            if node.tag not in (f"{_PREFIX}str", _MERGE):
                shown = f"the key {node.value or 'null'}" if isinstance(node, yaml.ScalarNode) else "a key"
                raise self._error(node, f"{shown} is not a text: put it in quotes")
            if node.value in lines:
                raise UserError(
                    f"{self.name} has the key {node.value} twice, on lines {lines[node.value]} and {_line(node)}: "
                    "remove one of them."
                )
            lines[node.value] = _line(node)

    def _error(self, node: yaml.Node, what: str) -> UserError:
        return UserError(f"{self.name}, line {_line(node)}: {what}.")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _shown(tag: str) -> str:
    """Return a tag as it is written in a file."""
    return tag.replace(_PREFIX, "!!")


def _reason(error: Exception) -> str:
    """Return a short text for an error of the parser, with the line if there is one."""
    if isinstance(error, RecursionError):
        return "values are nested too deeply"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is {chr(int(error.character))!r}, a control character"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        parts = [part for part in (error.context, error.problem) if part]
        return f"line {error.problem_mark.line + 1}: {', '.join(parts)}"
    return " ".join(str(error).split())
