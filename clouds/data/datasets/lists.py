"""List files, which name the images and label maps of a data set one by one.

Each line is `image<tab>label map`, or `image` alone in a data set without labels. The paths are relative to a folder
and are written with slashes. The file is UTF-8. Lines that are empty or begin with # are skipped.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from clouds.data.datasets.patterns import FilePattern
from clouds.data.datasets.record import Record
from clouds.errors import UserError
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.folders import is_hidden


def read_list(file: Path, folder: Path, images: FilePattern) -> list[Record]:
    """Read the records of a list file. Whether the listed files exist is not checked.

    Args:
        file: path of the list.
        folder: folder to which the paths in the list are relative.
        images: pattern that the paths of the images must match; it gives them their ids.

    Raises:
        UserError: the file cannot be read or names no image, a line has another form, an image is listed twice, or only
            some of the images have a label map.
    """
    records: list[Record] = []
    lines: dict[str, int] = {}
    labeled: dict[bool, int] = {}
    for number, line in enumerate(_read_lines(file), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            record = _record(line, folder, images)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}.") from None
        image_id = record["image_id"]
        if image_id in lines:
            raise UserError(
                f"{file}, line {number}: the image {image_id} is in line {lines[image_id]} already; remove one of them."
            )
        lines[image_id] = number
        labeled.setdefault("sem_seg_file_name" in record, number)
        records.append(record)
    if not records:
        raise UserError(f"The list {file} names no image: write one per line, with its label map after a tab.")
    if len(labeled) > 1:
        raise UserError(
            f"{file}: the image in line {labeled[False]} has no label map, but that in line {labeled[True]} has one; "
            "list the images without labels in a data set of their own."
        )
    return records


def write_list(file: Path, root: Path, records: Sequence[Record]) -> None:
    """Write a list file that `read_list` reads.

    Args:
        file: path of the list; its folder is created.
        root: data root, to which the written paths are relative.
        records: records to write.

    Raises:
        UserError: a file of a record is not below the data root, or has a name that a list cannot hold.
    """
    lines = []
    for record in records:
        paths = [Path(record[key]) for key in ("file_name", "sem_seg_file_name") if key in record]
        if outside := [path for path in paths if not path.is_relative_to(root)]:
            raise UserError(f"{outside[0]} is not below {root}, so it cannot stand in a list of that data root.")
        fields = [path.relative_to(root).as_posix() for path in paths]
        if special := [field for field in fields if field.strip() != field or {"\t", "\n", "\r"} & {*field}]:
            raise UserError(f"{special[0]!r} cannot stand in a list, because of its tabs, line breaks or outer spaces.")
        # A name that begins with # would be a comment.
        lines.append("\t".join(f"./{field}" if field.startswith("#") else field for field in fields))
    make_folder(file.parent)
    write_atomically(file, "".join(f"{line}\n" for line in lines))


def _read_lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # editors on Windows put a byte order mark first
    except OSError as error:
        raise UserError(f"The list {file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The list {file} is not UTF-8 (byte {error.start}): save it with this encoding.") from error
    return text.split("\n")  # not splitlines: a name may hold U+2028


def _record(line: str, folder: Path, images: FilePattern) -> Record:
    """Return the record of a line.

    Raises:
        ValueError: the line has another form; the message is a sentence without its period.
    """
    fields = [field.strip() for field in line.split("\t")]
    if not all(fields) or len(fields) > 2:
        raise ValueError(f"{line.strip()!r} is not an image, or an image and its label map with one tab between them")
    paths = [_path(field, folder) for field in fields]
    image_id = images.image_id(paths[0])
    if image_id is None:
        raise ValueError(
            f"{fields[0]!r} is no image ({images.names} below {images.folder}), with its label map after a tab"
        )
    record = {"file_name": paths[0], "image_id": image_id}
    return record | ({"sem_seg_file_name": paths[1]} if len(paths) > 1 else {})


def _path(field: str, folder: Path) -> str:
    path = PurePosixPath(field)
    if path.is_absolute() or ".." in path.parts or "\\" in field or "\x00" in field:
        raise ValueError(f"{field!r} must be a path below {folder}, with / between folders")
    if any(is_hidden(part) for part in path.parts):
        raise ValueError(f"{field!r} is a hidden file, which is not data; remove the line")
    return (folder / path).as_posix()
