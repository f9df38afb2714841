"""Reading a config: the defaults, a YAML file with its bases, and `KEY VALUE` pairs."""

import ast
import difflib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from clouds.config.defaults import DEFAULTS, IGNORED_KEYS, IGNORED_SECTIONS
from clouds.d2 import CfgNode, get_cfg
from clouds.errors import UserError

logger = logging.getLogger(__name__)


def get_config() -> CfgNode:
    """A fresh config with every default. With detectron2 installed it also holds detectron2's other keys, unread."""
    cfg = get_cfg()
    _overlay(cfg, CfgNode(DEFAULTS))
    return cfg


def load_config(config_file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """The defaults, then a YAML file with its chain of `_BASE_` files, then `KEY VALUE` pairs; not frozen yet.

    Raises `UserError` for a file that is not there or not YAML, an unknown key (naming the nearest known one) and a
    value of the wrong type, each with the file it stands in. Whole numbers are taken where fractions are expected, and
    lists and tuples for one another. Published keys that nothing reads are named in one log line.
    """
    cfg = get_config()
    known = dict(_leaves(DEFAULTS))
    sections = {key[:end] for key in known for end, letter in enumerate(key) if letter == "."}
    ignored: dict[str, None] = {}  # an ordered set
    sources = [(f"in {path}", _leaves(tree)) for path, tree in _read_files(config_file)] if config_file else []
    for where, settings in [*sources, ("on the command line", _pairs(opts))]:
        for key, value in settings:
            if key in known:
                _set(cfg, key, _coerce(value, known[key], f"{key} {where}"))
            elif name := _ignored_name(key):
                ignored[name] = None
            elif key not in sections:
                raise UserError(
                    f"Unknown setting {key} {where}: the nearest one that exists is {_nearest(key, known)}."
                )
            elif value is not None:  # a section whose every line is commented out is None
                raise UserError(f"{key} {where} is a section of settings, not one that takes a value ({value!r}).")
    if cfg.VERSION != 2:
        raise UserError(f"VERSION is {cfg.VERSION}, but config files of version 2 are the only ones that can be read.")
    if ignored:
        logger.warning("Settings that nothing here reads, left out: %s", ", ".join(ignored))
    return cfg


def resolve_device(cfg: CfgNode) -> None:
    """Turn MODEL.DEVICE "auto" into "cuda" or "cpu", in place; `UserError` for a GPU that is not there."""
    import torch

    available = torch.cuda.is_available()
    if cfg.MODEL.DEVICE == "auto":
        _set(cfg, "MODEL.DEVICE", "cuda" if available else "cpu")
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which torch does not know: use auto or cpu.") from error
    if device.type == "cuda" and not available:
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but torch finds no GPU: use auto or cpu.")


def _overlay(cfg: CfgNode, values: CfgNode) -> None:
    for key, value in values.items():
        if isinstance(value, CfgNode) and key in cfg:
            _overlay(cfg[key], value)
        else:
            cfg[key] = value


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    """Item access, which passes by the freeze: the device of a config is resolved when that config is final."""
    *sections, last = key.split(".")
    for section in sections:
        cfg = cfg[section]
    cfg[last] = value


def _leaves(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a nested dict that is not itself a dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_files(path: str | Path, including: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """A YAML file after the files of its `_BASE_`: a name or a list of names, relative to the file that names them."""
    path = Path(path).expanduser()
    named_in = f", which {including[-1]} names as its _BASE_," if including else ""
    if path.resolve() in [other.resolve() for other in including]:
        raise UserError(f"Config file {path}{named_in} is its own _BASE_: remove one of the two lines.")
    if not path.is_file():
        raise UserError(f"Config file {path}{named_in} does not exist.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"Config file {path} is not YAML: {' '.join(str(error).split())}.") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"Config file {path} must hold sections of settings (SOLVER: ...), not {type(tree).__name__}.")
    bases = tree.pop("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        yield from _read_files(path.parent / Path(str(base)).expanduser(), (*including, path))
    yield path, tree


def _pairs(opts: Sequence[str]) -> Iterator[tuple[str, str]]:
    if flags := [word for word in opts[::2] if word.startswith("--")]:
        raise UserError(
            f"{flags[0]} on the command line stands after a setting: flags come first, KEY VALUE pairs last."
        )
    if len(opts) % 2:
        raise UserError(f"Settings on the command line are KEY VALUE pairs, after all flags; {' '.join(opts)} is not.")
    return zip(opts[::2], opts[1::2], strict=True)


def _ignored_name(key: str) -> str | None:
    """How the log line calls an ignored key: by its section where all of that is ignored; None for any other key."""
    for section in IGNORED_SECTIONS:
        if f"{key}.".startswith(f"{section}."):
            return f"{section}.*"
    return key if key in IGNORED_KEYS else None


def _nearest(key: str, known: Iterable[str]) -> str:
    """The known key most like `key` in spelling, its last part counting twice: a section is easier to get wrong."""

    def likeness(name: str) -> float:
        parts = ((key.upper(), name), (key.upper().rpartition(".")[2], name.rpartition(".")[2]))
        return sum(difflib.SequenceMatcher(None, mine, its).ratio() for mine, its in parts)

    return max(known, key=likeness)


_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def _coerce(value: Any, default: Any, where: str) -> Any:
    """`value` in the type of `default`; texts are read as Python literals unless a text is wanted."""
    kind = type(default)
    if isinstance(value, str):
        value = _literal(value, wanted=kind)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and value is None:  # as published dumps have WANDB.NAME
        return ""
    if kind in (list, tuple) and isinstance(value, list | tuple):
        sample = default[0] if default else ""  # the lists without a default hold names
        return kind(_coerce(item, sample, f"each entry of {where}") for item in value)
    if type(value) is not kind:
        example = f" such as {default}" if default not in ("", ()) else " such as ('a', 'b')" if default == () else ""
        raise UserError(f"{where} must be {_KINDS[kind]}{example}, not {value!r}.")
    return value


def _literal(text: str, wanted: type) -> Any:
    if wanted is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if wanted is str and not isinstance(value, str) else value
