"""Patterns of file names, and the ids that they give to images and label maps.

| part of a pattern | matches |
|---|---|
| `*` | any characters of one name, no slash |
| `**` as a folder | any number of folders, or none |
| `{png,jpg}` | one of these words |
| the ending, such as `.png` | itself in any case, such as `.PNG` |

What `*` and `**` match, joined by slashes, is the id. An image and a label map with the same id are a pair.

A pattern without `*` and `{}` in its folders also matches files in sub-folders, and these sub-folders do not matter:
`images/*.png` matches `images/a/1.png`, whose id is "1". In all other patterns the folders are matched as written:
`images/**/*.png` gives this file the id "a/1".
"""

import functools
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from clouds.utils.paths import is_path

_WILDCARD = re.compile(r"\*\*|\*")
_CHOICE = re.compile(r"\{([^{}]*)\}")
_MAX_ALTERNATIVES = 64


@dataclass(frozen=True)
class FilePattern:
    """All files of a folder whose path matches a pattern; see the module for the rules."""

    folder: Path
    """Folder that all files are in."""
    names: str
    """Pattern of the paths below the folder, or of the file names alone if it has no slash."""

    @classmethod
    def parse(cls, root: Path, text: str) -> "FilePattern":
        """Return the pattern `text`, whose folder ends before the first part with a wildcard or a choice.

        Args:
            root: folder to which the pattern is relative.
            text: valid pattern, see `pattern_fault`.
        """
        parts = text.split("/")
        fixed = next((at for at, part in enumerate(parts) if re.search(r"[*{}]", part)), len(parts) - 1)
        return cls(root / "/".join(parts[:fixed]), "/".join(parts[fixed:]))

    @property
    def is_flat(self) -> bool:
        """Whether sub-folders do not matter."""
        return "/" not in self.names

    def image_id(self, path: str) -> str | None:
        """Return the id of a file below the folder, or None if the pattern does not match its path.

        Args:
            path: path with slashes between folders, also on Windows.
        """
        below = path.rpartition("/")[2] if self.is_flat else path.removeprefix(f"{self.folder.as_posix()}/")
        for expression in self._expressions:
            if match := expression.fullmatch(below):
                return "/".join(part for part in match.groups() if part is not None)
        return None

    def covers(self, folder: str) -> bool:
        """Whether a sub-folder, or a folder inside it, can have matching files.

        Args:
            folder: path of the sub-folder, with slashes.
        """
        if self.is_flat:
            return True
        parts = folder.removeprefix(f"{self.folder.as_posix()}/").split("/")
        return any(_begins(alternative, parts) for alternative in self._alternatives)

    def has_beside(self, path: str) -> bool:
        """Whether a file lies in a folder of the pattern, whatever its name is."""
        if self.is_flat:
            return True
        return FilePattern(self.folder, f"{self.names.rpartition('/')[0]}/*").image_id(path) is not None

    def name_of(self, image_id: str) -> str:
        """Return the path below the folder that a file with this id has; choices remain as they are."""
        wildcards = _WILDCARD.findall(self.names)
        parts = iter([image_id] if len(wildcards) == 1 else image_id.split("/"))
        name = _WILDCARD.sub(lambda _: next(parts, "*"), self.names)
        return self.names if "*" in name or next(parts, None) is not None else name

    @functools.cached_property
    def _alternatives(self) -> list[str]:
        """Patterns without choices, one for each combination."""
        # The pieces are in turn literal text and the words of a choice.
        pieces = [piece.split(",") if at % 2 else [piece] for at, piece in enumerate(_CHOICE.split(self.names))]
        return ["".join(words) for words in itertools.product(*pieces)]

    @functools.cached_property
    def _expressions(self) -> list[re.Pattern[str]]:
        return [_expression(alternative) for alternative in self._alternatives]


def wildcards(text: str) -> list[str]:
    """Return the wildcards of a pattern in turn, each "*" or "**"; those of a pair of patterns must be equal."""
    return _WILDCARD.findall(text)


def pattern_fault(text: str) -> str | None:
    """Return what is wrong with a pattern, the end of a sentence, or None if it is valid."""
    parts = text.split("/")
    choices = _CHOICE.findall(text)
    rest = _CHOICE.sub("", text)
    count = 1
    for choice in choices:
        count *= choice.count(",") + 1
    faults = {
        "is no path that a file system can have": not is_path(text),
        "has no *, where the names differ": "*" not in text,
        "has a backslash; write / between folders": "\\" in text,
        "has a { or } too many": "{" in rest or "}" in rest,
        "has a * or / inside { }": any("*" in choice or "/" in choice for choice in choices),
        f"has more than {_MAX_ALTERNATIVES} combinations of {'{ }'}": count > _MAX_ALTERNATIVES,
        "has an empty name between two /": any(not part for part in parts[1:]),
        "has a folder .. after a *": ".." in parts[next((i for i, part in enumerate(parts) if "*" in part), 0) :],
        "has ** beside other characters or as a file name; ** stands for folders": any(
            "**" in part and (part != "**" or at == len(parts) - 1) for at, part in enumerate(parts)
        ),
        "has ** twice": parts.count("**") > 1,
    }
    return next((fault for fault, is_there in faults.items() if is_there), None)


def _expression(names: str) -> re.Pattern[str]:
    *folders, name = names.split("/")
    stem, dot, ending = name.rpartition(".")
    if not dot or "*" in ending:
        stem, dot, ending = name, "", ""
    # A folder ** matches nothing, too, and then adds nothing to the id.
    written = ["(?:(.+)/)?" if folder == "**" else f"{_escape(folder)}/" for folder in folders]
    return re.compile(f"{''.join(written)}{_escape(stem)}(?i:{re.escape(dot + ending)})", re.DOTALL)


def _escape(part: str) -> str:
    return "([^/]*)".join(re.escape(piece) for piece in part.split("*"))


def _begins(names: str, parts: list[str]) -> bool:
    """Whether folders can be the first ones of a pattern without choices."""
    folders = names.split("/")[:-1]
    for at, part in enumerate(parts):
        if at == len(folders):
            return False
        if folders[at] == "**":
            return True
        if not re.fullmatch(_escape(folders[at]), part, re.DOTALL):
            return False
    return True
