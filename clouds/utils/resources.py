"""Files that come with this package and that commands name: configs, descriptions of data sets, prompts.

Their names are those in the repository, such as ``configs/warmup/gta/train_gta.yaml``, whether CLOUDS runs from a clone
or is installed. `pyproject.toml` maps the files into the wheel.
"""

import difflib
import itertools
from pathlib import Path

from clouds.errors import UserError
from clouds.utils.paths import user_path
from clouds.version import DISTRIBUTION

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDER = "configs"
_PROMPTS = "prompt_*.txt"
_MOST = 1000  # files of a folder that may be meant


def resource_root() -> Path:
    """Return the folder to which the names are relative: the package where it is installed, else the clone."""
    return _PACKAGE if (_PACKAGE / _FOLDER).is_dir() else _PACKAGE.parent


def is_clone() -> bool:
    """Return whether CLOUDS runs from a clone of its repository, also one that is installed as editable."""
    return resource_root() != _PACKAGE


def install_command(extra: str = "") -> str:
    """Return the command that installs what CLOUDS needs, or with `extra` the packages of an extra."""
    if is_clone():
        return f"pip install -e '.[{extra}]'" if extra else "pip install -r requirements.txt -e ."
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


def resources() -> list[str]:
    """Return the names of all files that come with this package."""
    root = resource_root()
    found = [*root.glob(_PROMPTS), *(root / _FOLDER).rglob("*.yaml")]
    return sorted(path.relative_to(root).as_posix() for path in found)


def find_file(name: str | Path, folder: Path = Path()) -> Path:
    """Return the path of a file that a user names.

    Args:
        name: path, in which `~` is expanded.
        folder: folder to which a relative path refers; default: the current folder.

    Returns:
        The file in `folder` if there is one, else the file of this package with that name; if there is none either, the
        path in `folder`, which need not exist.
    """
    path = user_path(name)
    there = folder / path
    try:
        if there.is_file() or path.as_posix() not in resources():
            return there
    except (OSError, ValueError):  # no valid name
        return there
    return resource_root() / path


def existing_file(name: str | Path, kind: str, folder: Path = Path(), named_in: str = "") -> Path:
    """Return the path of a file that a user names, as `find_file` does.

    Args:
        name: path, in which `~` is expanded.
        kind: kind of the file, the beginning of every message, such as "Config file".
        folder: folder to which a relative path refers; default: the current folder.
        named_in: part of the message that says where the file is named.

    Raises:
        UserError: the file does not exist, or is not a file; the message names the most similar one.
    """
    path = find_file(name, folder)
    try:
        fault = "" if path.is_file() else "is not a file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:  # no valid name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{kind} {path}{named_in} cannot be read ({reason}).") from error
    if fault:
        raise UserError(f"{kind} {path}{named_in} {fault}{similar_file(name, folder)}.")
    return path


def similar_file(name: str | Path, folder: Path = Path()) -> str:
    """Return the end of a message about a file that does not exist: which file has the most similar name.

    The files of this package and those in the folder of `name` are compared, if they have the suffix of `name`.

    Args:
        name: path that was looked for.
        folder: folder to which a relative path refers; default: the current folder.

    Returns:
        "; the most similar one is ...", or "" if there is no such file.
    """
    path = user_path(name)
    try:
        beside = list(itertools.islice((folder / path).parent.glob(f"*{path.suffix}"), _MOST))
    except (OSError, ValueError):  # no valid name
        beside = []
    names = [*resources(), *(str(path.parent / other.name) for other in beside if other.is_file())]

    def similarity(other: str) -> float:
        """The name counts twice: folders are more often forgotten than misspelt."""
        pairs = ((str(path), other), (path.name, Path(other).name))
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    nearest = max((other for other in names if Path(other).suffix == path.suffix), key=similarity, default="")
    return f"; the most similar one is {nearest}" if nearest else ""
