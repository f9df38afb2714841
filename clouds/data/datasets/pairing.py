"""Finding the files of a pattern, and pairing images with label maps by their ids."""

import functools
import os
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path

from clouds.data.datasets.patterns import FilePattern
from clouds.data.datasets.record import Record
from clouds.errors import UserError
from clouds.utils.folders import is_hidden


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
    return pair_files(name, FilePattern(images, f"*{image_suffix}"), FilePattern(labels, f"*{label_suffix}"), omitted)


def pair_files(
    name: str, images: FilePattern, labels: FilePattern, omitted: frozenset[str] = frozenset()
) -> list[Record]:
    """Pair the files of two patterns by id.

    Args:
        name: name of the data set, for error messages.
        images: pattern of the images.
        labels: pattern of the label maps.
        omitted: ids to leave out.

    Returns:
        Records sorted by image path.

    Raises:
        UserError: a folder is missing or has no matching file, two files have the same id, an image has no label map,
            or the two patterns match the same files.
    """
    image_files = files_by_id(name, "images", images)
    label_files = files_by_id(name, "label maps", labels)
    image_files = exclude_label_maps(name, image_files, label_files)
    ids = [image_id for image_id in sorted(image_files, key=image_files.__getitem__) if image_id not in omitted]
    unpaired = [image_id for image_id in ids if image_id not in label_files]
    if unpaired:
        raise UserError(
            f"{name}: {len(unpaired)} of {len(ids)} images have no label map, the first is "
            f"{image_files[unpaired[0]]} (looked for {labels.name_of(unpaired[0])} under {labels.folder}); "
            "finish the download or the label conversion; `clouds prepare` lists them all."
        )
    return [{"file_name": image_files[i], "sem_seg_file_name": label_files[i], "image_id": i} for i in ids]


def files_by_id(name: str, kind: str, pattern: FilePattern) -> dict[str, str]:
    """Find the files of a pattern; links are followed, hidden files are left out.

    Args:
        name: name of the data set, for error messages.
        kind: "images" or "label maps", for error messages.
        pattern: folder and names to look for.

    Returns:
        Path by id.

    Raises:
        UserError: the folder is missing or has no matching file, two files have the same id, a name is not UTF-8, a
            folder cannot be listed, or a link leads to a folder above itself.
    """
    found, problems = find_files(name, kind, pattern)
    if problems:
        raise UserError(problems[0])
    return found


def find_files(name: str, kind: str, pattern: FilePattern) -> tuple[dict[str, str], list[str]]:
    """Find the files of a pattern and list everything that is wrong with them; see `files_by_id`.

    Returns:
        Path by id, and the problems, one sentence each.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder above itself.
    """
    if not pattern.folder.is_dir():
        return {}, [
            f"{name}: there is no folder {pattern.folder}, where its {kind} ({pattern.names}) should lie; "
            "put the data there or set DETECTRON2_DATASETS to the folder that holds it, see datasets/README.md."
        ]
    found: dict[str, str] = {}
    problems = []
    for path in list_files(name, pattern.folder, pattern.covers):
        image_id = pattern.image_id(path)
        if image_id is None:
            continue
        if not path.isascii() and not _is_text(path):
            problems.append(f"{name}: the name of the file {path!a} is not UTF-8; rename it.")
        elif image_id in found:
            problems.append(_twice(name, pattern, found[image_id], path))
        else:
            found[image_id] = path
    if not found and not problems:
        problems.append(
            f"{name}: no {kind} in {pattern.folder}, where files {pattern.names} should lie; finish the download or "
            "the label conversion, see datasets/README.md."
        )
    return found, problems


def exclude_label_maps(name: str, image_files: dict[str, str], label_files: dict[str, str]) -> dict[str, str]:
    """Remove the label maps from the images: in a shared folder, `*.png` also matches `*_labels.png`.

    Args:
        name: name of the data set, for error messages.
        image_files: path of each image, by id.
        label_files: path of each label map, by id.

    Raises:
        UserError: no image is left.
    """
    labels = set(label_files.values())
    images = {image_id: file for image_id, file in image_files.items() if file not in labels}
    if image_files and not images:
        raise UserError(
            f"{name}: the patterns of its images and of its label maps match the same files, such as "
            f"{next(iter(image_files.values()))}; give the label maps a pattern that no image matches."
        )
    return images


def list_files(name: str, folder: Path, covers: Callable[[str], bool] = lambda folder: True) -> Iterator[str]:
    """Yield the paths of all files in a folder and its sub-folders; links are followed, hidden files are left out.

    The paths have slashes, also on Windows, since ids are made of them.

    Args:
        name: name of the data set, for error messages.
        folder: folder to search.
        covers: function of the path of a sub-folder that returns whether to search it.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder above itself.
    """
    # os.walk and strings, not Path.rglob: GTA5's 50,000 label files list in a tenth of the time.
    for place, folders, files in os.walk(folder, followlinks=True, onerror=functools.partial(_raise_unlisted, name)):
        where = place.replace(os.sep, "/")
        folders[:] = [inner for inner in folders if not is_hidden(inner) and covers(posixpath.join(where, inner))]
        for inner in folders:
            path = posixpath.join(where, inner)
            if os.path.islink(path) and Path(where).resolve().is_relative_to(Path(path).resolve()):  # noqa: PTH114
                raise UserError(f"{name}: {path} is a link to a folder that it lies in, a circle; remove the link.")
        for file in files:
            if not is_hidden(file):
                yield posixpath.join(where, file)


def _raise_unlisted(name: str, error: OSError) -> None:
    raise UserError(f"{name}: the folder {error.filename} cannot be listed ({error.strerror}); see its permissions.")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _twice(name: str, pattern: FilePattern, first: str, second: str) -> str:
    file_name = second.rpartition("/")[2]
    if first.rpartition("/")[2] != file_name:
        return f"{name}: {first} and {second} would be the same image {pattern.image_id(first)}; remove one of them."
    hint = f" (in a YAML file, the pattern **/{pattern.names} makes the folders count)" if pattern.is_flat else ""
    return f"{name}: {file_name} exists twice, as {first} and {second}; remove one of them{hint}."
