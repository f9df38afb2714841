"""Reading a config from the defaults, a YAML file with its bases, and `KEY VALUE` pairs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The package, not its names: these are resolved on use, so that commands report a wrong CLOUDS_D2 in one sentence.
from clouds import d2
from clouds.config.defaults import DEFAULTS
from clouds.config.detectron2_keys import ignored_name, report_ignored, set_detectron2_keys
from clouds.config.keys import leaves, value_of
from clouds.config.relations import report_without_effect
from clouds.config.schema import check
from clouds.config.settings import holds, plain_settings
from clouds.config.values import shown, typed
from clouds.errors import UserError
from clouds.utils.paths import is_url
from clouds.utils.resources import existing_file
from clouds.utils.yaml_files import read_yaml

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

COMMAND_LINE = "on the command line"


def get_config() -> CfgNode:
    """Return a new config with every default.

    With detectron2 installed the config also holds detectron2's other keys, see `clouds.config.detectron2_keys`.
    """
    cfg = d2.get_cfg()
    _overlay(cfg, d2.CfgNode(DEFAULTS))
    set_detectron2_keys(cfg)
    return cfg


def load_config(config_file: str | Path | CfgNode | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Read a config and check it against `clouds.config.schema`.

    Values are taken from the defaults, then from a YAML file with its chain of `_BASE_` files, then from `opts`; later
    values replace earlier ones. Keys that published configs set but that are not used here are reported in one warning,
    keys of `opts` that have no effect in the config in another.

    Args:
        config_file: YAML file; a config takes the place of its content; None for the defaults.
        opts: alternating keys and values, as on a command line.

    Returns:
        A config that is not frozen.

    Raises:
        UserError: a file is missing or not YAML, a key is unknown, or a value has a wrong type or is out of range. The
            message names the source of the value, and the most similar known key for an unknown one.
    """
    cfg = get_config()
    known = dict(leaves(DEFAULTS))
    sections = {key[:end] for key in known for end, letter in enumerate(key) if letter == "."}
    sources: dict[str, str] = {}
    ignored: dict[str, Any] = {}
    files: list[tuple[str, Iterable[tuple[str, Any]]]] = []
    if isinstance(config_file, Mapping):
        files = [("in the config", plain_settings(config_file).items())]
    elif config_file:
        files = [(f"in {path}", leaves(tree, keys=known)) for path, tree in _read_files(config_file)]
    for where, settings in [*files, (COMMAND_LINE, _pairs(opts))]:
        here: set[str] = set()  # a file may be the base of several files, and is read once for each of them
        for key, value in settings:
            if key in known:
                if key in here and where != COMMAND_LINE:  # as SOLVER: {MAX_ITER: 1} and as SOLVER.MAX_ITER: 2
                    raise UserError(f"The config sets {key} twice {where}: remove one of the lines.")
                here.add(key)
                _set(cfg, key, typed(key, value, where))
                sources[key] = where
            elif ignored_name(key):
                ignored[key] = value
            elif key not in sections:
                raise UserError(
                    f"Unknown config key {key} {where}: the most similar known key is {_nearest(key, known)}."
                )
            elif value not in (None, {}):  # a section whose every line is commented out is None
                raise UserError(f"{key} {where} is a section of config keys and takes no value ({shown(value)}).")
    check(cfg, sources)
    set_detectron2_keys(cfg)
    # A config that was recorded with detectron2 has all of its keys, with their defaults.
    if not all(holds(cfg, key, value) for key, value in ignored.items()):
        report_ignored(ignored)
    report_without_effect(cfg, [key for key, where in sources.items() if where == COMMAND_LINE])
    return cfg


def check_weights(path: str) -> None:
    """Check that a local weight file exists.

    Args:
        path: value of ``MODEL.WEIGHTS``; an empty string and a URL are not checked.

    Raises:
        UserError: there is no such file.
    """
    if not path or is_url(path):
        return
    try:
        found, folder = Path(path).is_file(), Path(path).is_dir()
    except OSError:  # a name that the file system does not take
        found = folder = False
    if folder:
        raise UserError(f"Weights not found: '{path}' is a folder (MODEL.WEIGHTS); name a file in it.")
    if not found:
        raise UserError(f"Weights not found: there is no file '{path}' (MODEL.WEIGHTS).")


def _overlay(cfg: CfgNode, values: CfgNode) -> None:
    for key, value in values.items():
        if isinstance(value, d2.CfgNode) and key in cfg:
            _overlay(cfg[key], value)
        else:
            cfg[key] = value


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    section, _, last = key.rpartition(".")
    (value_of(cfg, section) if section else cfg)[last] = value


def _read_files(name: str | Path, including: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """Yield (path, content) of every file in the `_BASE_` chain of a YAML file, bases first.

    `_BASE_` is a name or a list of names, relative to the file that contains it, or of this package.
    """
    named_in = f", the _BASE_ of {including[-1]}," if including else ""
    path = existing_file(name, "Config file", including[-1].parent if including else Path(), named_in)
    if path.resolve() in [other.resolve() for other in including]:
        raise UserError(f"Config file {path}{named_in} is its own _BASE_: remove one of the two lines.")
    tree = read_yaml(path, "Config file")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise UserError(f"Config file {path} must contain sections of config keys (SOLVER: ...), not a {kind}.")
    bases = tree.pop("_BASE_", [])
    bases = bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) for base in bases):
        raise UserError(f"Config file {path}: _BASE_ must be a file name or a list of file names, not {bases!r}.")
    for base in bases:
        yield from _read_files(base, (*including, path))
    yield path, tree


def _pairs(opts: Sequence[str]) -> Iterator[tuple[str, str]]:
    if flags := [word for word in opts[::2] if word.startswith("--")]:
        raise UserError(
            f"{flags[0]} on the command line follows a config key: put all flags before the KEY VALUE pairs."
        )
    if len(opts) % 2:
        raise UserError(
            f"Config values on the command line are KEY VALUE pairs after all flags: complete {' '.join(opts)}."
        )
    return zip(opts[::2], opts[1::2], strict=True)


def _nearest(key: str, known: Iterable[str]) -> str:
    """Return the most similar known key. The last part counts twice, because sections are misspelt more often."""

    def similarity(name: str) -> float:
        parts = ((key.upper(), name), (key.upper().rpartition(".")[2], name.rpartition(".")[2]))
        return sum(difflib.SequenceMatcher(None, mine, its).ratio() for mine, its in parts)

    return max(known, key=similarity)
