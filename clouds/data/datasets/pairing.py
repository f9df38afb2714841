"""Which label map belongs to which picture: by the name in front of the ending, in whatever folders the two lie."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from clouds.errors import UserError

Record = dict[str, Any]


class Place(NamedTuple):
    """All files `<folder>/**/<prefix><stem><ending>`."""

    folder: Path
    ending: str
    prefix: str = ""

    @property
    def pattern(self) -> str:
        """What the names look like."""
        return f"{self.prefix}*{self.ending}"

    def stem(self, file: str) -> str | None:
        """What is in the place of the * in a file's name; None if that is not of this kind."""
        fits = file.startswith(self.prefix) and file.endswith(self.ending)
        return file[len(self.prefix) : len(file) - len(self.ending)] if fits else None


def pair_by_stem(
    name: str, images: Path, image_suffix: str, labels: Path, label_suffix: str, omitted: frozenset[str] = frozenset()
) -> list[Record]:
    """Records of all `<images>/**/<stem><image_suffix>` with their `<labels>/**/<stem><label_suffix>`, by path.

    Args:
        name: of the set, for messages.
        images: folder of the pictures, searched with its sub-folders.
        image_suffix: what follows the stem in a picture's file name, extension included.
        labels: folder of the label maps, searched with its sub-folders.
        label_suffix: what follows the stem in a label map's file name, extension included.
        omitted: stems to leave out.

    Raises:
        UserError: a folder is missing or has no such file, a stem occurs twice, or a picture has no label map.
    """
    return pair(name, Place(images, image_suffix), Place(labels, label_suffix), omitted)


def pair(name: str, images: Place, labels: Place, omitted: frozenset[str] = frozenset()) -> list[Record]:
    """The same for names with a prefix, too."""
    image_files = files_by_stem(name, "images", images)
    label_files = files_by_stem(name, "label maps", labels)
    image_files = without(image_files, label_files)
    stems = [stem for stem in sorted(image_files, key=image_files.__getitem__) if stem not in omitted]
    orphans = [stem for stem in stems if stem not in label_files]
    if orphans:
        raise UserError(
            f"{name}: {len(orphans)} of {len(stems)} images have no label map, the first is {image_files[orphans[0]]} "
            f"(looked for {labels.pattern.replace('*', orphans[0])} under {labels.folder}); finish the download or the "
            "label conversion, see datasets/README.md."
        )
    return [{"file_name": image_files[s], "sem_seg_file_name": label_files[s], "image_id": s} for s in stems]


def files_by_stem(name: str, what: str, place: Place) -> dict[str, str]:
    """The files of a place, links followed, by stem.

    Args:
        name: of the set, for messages.
        what: the files are, for messages.
        place: to search.

    Raises:
        UserError: there is no such folder or file, a stem occurs twice, a folder cannot be listed, or a link leads to a
            folder above it.
    """
    if not place.folder.is_dir():
        raise UserError(
            f"{name}: there is no folder {place.folder}, where its {what} ({place.pattern}) should lie; "
            "put the data there or set DETECTRON2_DATASETS to the folder that holds it, see datasets/README.md."
        )
    found: dict[str, str] = {}
    for path in files_below(name, place.folder):
        stem = place.stem(os.path.basename(path))  # noqa: PTH119  (a Path object per file costs more than the listing)
        if stem is None:
            continue
        if stem in found:
            raise UserError(
                f"{name}: {os.path.basename(path)} exists twice, as {found[stem]} and {path}; remove one of them."  # noqa: PTH119
            )
        found[stem] = path
    if not found:
        raise UserError(
            f"{name}: no {what} in {place.folder}, where files {place.pattern} should lie; finish the download or the "
            "label conversion, see datasets/README.md."
        )
    return found


def without(image_files: dict[str, str], label_files: dict[str, str]) -> dict[str, str]:
    """The pictures that are no label maps: where both lie in one folder, `*.png` also fits what `*_labels.png` does."""
    labels = set(label_files.values())
    return {stem: file for stem, file in image_files.items() if file not in labels}


def files_below(name: str, folder: Path) -> Iterator[str]:
    """The paths of all files in a folder and its sub-folders, links followed.

    Args:
        name: of the set, for messages.
        folder: to search.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder above it.
    """
    # os.walk and strings, not Path.rglob: GTA5's 50,000 label files list in a tenth of the time.
    for where, folders, files in os.walk(folder, followlinks=True, onerror=functools.partial(_not_listed, name)):
        for inner in folders:
            path = os.path.join(where, inner)  # noqa: PTH118
            if os.path.islink(path) and Path(where).resolve().is_relative_to(Path(path).resolve()):  # noqa: PTH114
                raise UserError(f"{name}: {path} is a link to a folder that it lies in, a circle; remove the link.")
        for file in files:
            yield os.path.join(where, file)  # noqa: PTH118


def _not_listed(name: str, error: OSError) -> None:
    raise UserError(f"{name}: the folder {error.filename} cannot be listed ({error.strerror}); see its permissions.")
