"""Inputs of a prediction: images, videos, folders, patterns, URLs and cameras; and the names of its results."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clouds.errors import UserError
from clouds.utils.file_kinds import HEAD, is_video
from clouds.utils.folders import walk_files
from clouds.utils.paths import is_url, url_name

# Those of the formats that are read. HEIC is not, but a photograph that cannot be read is reported, not passed over.
IMAGE_ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2", ".avif", ".heic"}
)
VIDEO_ENDINGS = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".mts", ".m2ts"}
)

LONGEST_NAME = 255 - len("_confidence.png")
"""Most bytes of the name of an input, to which the endings of the results are added; file systems allow 255."""

_CAMERA = re.compile(r"camera:(\d{1,3})")

Kind = Literal["image", "video", "camera"]


@dataclass(frozen=True)
class Source:
    """An input of a prediction.

    Attributes:
        name: path or URL; the number of a camera.
        kind: image, video or camera.
        target: path of its results without their endings.
    """

    name: str
    kind: Kind
    target: Path


@dataclass
class Sources:
    """The inputs of a prediction.

    Attributes:
        found: images, videos and cameras, in order, each once.
        others: files in the folders that are neither images nor videos.
    """

    found: list[Source]
    others: list[Path] = field(default_factory=list)


def find_sources(words: Sequence[str], output: Path) -> Sources:
    """Find the inputs and name their results.

    Args:
        words: files, folders, which are searched with their sub-folders, patterns such as ``photos/**/*.png``, URLs,
            and cameras as ``camera:0``.
        output: folder of the results; files inside it are passed over in folders.

    Raises:
        UserError: an input does not exist, there is no image and no video, two inputs would share their results, or
            the name of an input is too long for them.
    """
    found: dict[str, tuple[Kind, Path]] = {}
    others: list[Path] = []
    for word in words:
        path = Path(word)
        if camera := _CAMERA.fullmatch(word):
            found[camera[1]] = ("camera", Path(f"camera_{camera[1]}"))
        elif is_url(word):
            name = Path(url_name(word) or "download")
            found[word] = ("video" if name.suffix.lower() in VIDEO_ENDINGS else "image", name)
        elif path.is_file():
            found[str(path)] = (_kind_of(path), Path(path.name))
        elif path.is_dir():
            found |= _in_folder(path, output, others)
        elif matched := _matching(word):
            found |= matched
        else:
            raise UserError(f"Input not found: there is no file or folder '{word}'.")
    if not found:
        where = ", ".join(words) or "the command line"
        raise UserError(
            f"No image to label in {where}: give images ({', '.join(sorted(IMAGE_ENDINGS))}), videos, or folders with "
            "them."
        )
    return Sources(_named(found, output), others)


def _kind_of(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix in IMAGE_ENDINGS | VIDEO_ENDINGS:
        return "video" if suffix in VIDEO_ENDINGS else "image"
    try:
        with path.open("rb") as file:
            return "video" if is_video(file.read(HEAD)) else "image"
    except OSError:  # reading it as an image says why
        return "image"


def _in_folder(folder: Path, output: Path, others: list[Path]) -> dict[str, tuple[Kind, Path]]:
    found: dict[str, tuple[Kind, Path]] = {}
    # The results of an earlier run may be inside the folder.
    for path in sorted(path for path in walk_files(folder) if not path.is_relative_to(output)):
        if path.suffix.lower() in IMAGE_ENDINGS | VIDEO_ENDINGS:
            found[str(path)] = (_kind_of(path), path.relative_to(folder))
        else:
            others.append(path)
    return found


def _matching(pattern: str) -> dict[str, tuple[Kind, Path]]:
    """The files that match a pattern, named from the first folder in which a pattern character is."""
    if not glob.has_magic(pattern):
        return {}
    parts = Path(pattern).parts
    fixed = Path(*parts[: next(at for at, part in enumerate(parts) if glob.has_magic(part))])
    paths = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207  (a pattern may be absolute)
    return {str(path): (_kind_of(path), path.relative_to(fixed)) for path in paths if path.is_file()}


def _named(found: dict[str, tuple[Kind, Path]], output: Path) -> list[Source]:
    stems = Counter(name.with_suffix("") for _, name in found.values())
    # If a.jpg and a.png are both there, their results keep the suffix.
    shared = {stem for stem, count in stems.items() if count > 1}
    names = {
        source: name if name.with_suffix("") in shared else name.with_suffix("") for source, (_, name) in found.items()
    }
    twice = [str(name) for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"Two inputs are called {twice[0]}: label their folders one at a time, each with its --output.")
    for source, name in names.items():
        if len(os.fsencode(name.name)) > LONGEST_NAME:
            raise UserError(f"The name of {source} is too long for its results: give it at most {LONGEST_NAME} bytes.")
    return [Source(source, kind, output / names[source]) for source, (kind, _) in found.items()]
