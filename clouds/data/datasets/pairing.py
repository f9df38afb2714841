"""Finding files by a name pattern, and pairing images with label maps by the part of the name that varies."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clouds.data.datasets.record import Record
from clouds.errors import UserError


class FilePattern(NamedTuple):
    """All files `<folder>/**/<prefix><stem><suffix>`."""

    folder: Path
    suffix: str
    prefix: str = ""

    @property
    def glob(self) -> str:
        """Pattern of the file names, with a * in place of the stem."""
        return f"{self.prefix}*{self.suffix}"

    def stem(self, file_name: str) -> str | None:
        """Return the stem of a file name, or None if the name does not match the pattern."""
        matches = file_name.startswith(self.prefix) and file_name.endswith(self.suffix)
        return file_name[len(self.prefix) : len(file_name) - len(self.suffix)] if matches else None


def pair_by_stem(
    name: str, images: Path, image_suffix: str, labels: Path, label_suffix: str, omitted: frozenset[str] = frozenset()
) -> list[Record]:
    """Return a record for each `<images>/**/<stem><image_suffix>` with its `<labels>/**/<stem><label_suffix>`.

    Args:
        name: name of the data set, for error messages.
        images: folder of the images, searched recursively.
        image_suffix: end of an image's file name after the stem, extension included.
        labels: folder of the label maps, searched recursively.
        label_suffix: end of a label map's file name after the stem, extension included.
        omitted: stems to leave out.

    Returns:
        Records sorted by image path; `image_id` is the stem.

    Raises:
        UserError: a folder is missing or has no matching file, a stem occurs twice, or an image has no label map.
    """
    return pair_files(name, FilePattern(images, image_suffix), FilePattern(labels, label_suffix), omitted)


def pair_files(
    name: str, images: FilePattern, labels: FilePattern, omitted: frozenset[str] = frozenset()
) -> list[Record]:
    """Pair the files of two patterns by stem.

    Args:
        name: name of the data set, for error messages.
        images: pattern of the images.
        labels: pattern of the label maps.
        omitted: stems to leave out.

    Returns:
        Records sorted by image path; `image_id` is the stem.

    Raises:
        UserError: a folder is missing or has no matching file, a stem occurs twice, or an image has no label map.
    """
    image_files = files_by_stem(name, "images", images)
    label_files = files_by_stem(name, "label maps", labels)
    image_files = exclude_label_maps(image_files, label_files)
    stems = [stem for stem in sorted(image_files, key=image_files.__getitem__) if stem not in omitted]
    unpaired = [stem for stem in stems if stem not in label_files]
    if unpaired:
        raise UserError(
            f"{name}: {len(unpaired)} of {len(stems)} images have no label map, the first is "
            f"{image_files[unpaired[0]]} (looked for {labels.glob.replace('*', unpaired[0])} under {labels.folder}); "
            "finish the download or the label conversion, see datasets/README.md."
        )
    return [{"file_name": image_files[s], "sem_seg_file_name": label_files[s], "image_id": s} for s in stems]


def files_by_stem(name: str, kind: str, pattern: FilePattern) -> dict[str, str]:
    """Find the files of a pattern; links are followed.

    Args:
        name: name of the data set, for error messages.
        kind: "images" or "label maps", for error messages.
        pattern: folder and names to look for.

    Returns:
        Path by stem.

    Raises:
        UserError: the folder is missing or has no matching file, a stem occurs twice, a folder cannot be listed, or a
            link leads to a folder above itself.
    """
    if not pattern.folder.is_dir():
        raise UserError(
            f"{name}: there is no folder {pattern.folder}, where its {kind} ({pattern.glob}) should lie; "
            "put the data there or set DETECTRON2_DATASETS to the folder that holds it, see datasets/README.md."
        )
    found: dict[str, str] = {}
    for path in list_files(name, pattern.folder):
        stem = pattern.stem(os.path.basename(path))  # noqa: PTH119  (a Path object per file costs more than the listing)
        if stem is None:
            continue
        if stem in found:
            raise UserError(
                f"{name}: {os.path.basename(path)} exists twice, as {found[stem]} and {path}; remove one of them."  # noqa: PTH119
            )
        found[stem] = path
    if not found:
        raise UserError(
            f"{name}: no {kind} in {pattern.folder}, where files {pattern.glob} should lie; finish the download or the "
            "label conversion, see datasets/README.md."
        )
    return found


def exclude_label_maps(image_files: dict[str, str], label_files: dict[str, str]) -> dict[str, str]:
    """Remove the label maps from the images: in a shared folder, `*.png` also matches `*_labels.png`."""
    labels = set(label_files.values())
    return {stem: file for stem, file in image_files.items() if file not in labels}


def list_files(name: str, folder: Path) -> Iterator[str]:
    """Yield the paths of all files in a folder and its sub-folders; links are followed.

    Args:
        name: name of the data set, for error messages.
        folder: folder to search.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder above itself.
    """
    # os.walk and strings, not Path.rglob: GTA5's 50,000 label files list in a tenth of the time.
    for where, folders, files in os.walk(folder, followlinks=True, onerror=functools.partial(_raise_unlisted, name)):
        for inner in folders:
            path = os.path.join(where, inner)  # noqa: PTH118
            if os.path.islink(path) and Path(where).resolve().is_relative_to(Path(path).resolve()):  # noqa: PTH114
                raise UserError(f"{name}: {path} is a link to a folder that it lies in, a circle; remove the link.")
        for file in files:
            yield os.path.join(where, file)  # noqa: PTH118


def _raise_unlisted(name: str, error: OSError) -> None:
    raise UserError(f"{name}: the folder {error.filename} cannot be listed ({error.strerror}); see its permissions.")
