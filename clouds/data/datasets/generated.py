"""Sets of generated images: the folders below `stable_diffusion` in the data root."""

from collections.abc import Sequence
from pathlib import Path

from clouds.data.datasets.record import Record
from clouds.errors import UserError
from clouds.utils.folders import image_files, is_hidden

PUBLISHED_GENERATED = "sd_llama70b_v2"
"""Name of the generated set that the published joint configs train on."""

GENERATE_COMMAND = "clouds generate --folder NAME"
"""Command that makes a generated set, for error messages."""


def find_generated(root: Path) -> dict[str, list[Path]]:
    """Find the generated sets under the data root.

    The folder `stable_diffusion/sd_<v>` or `stable_diffusion/<v>` is the set `sd_<v>`. The published set is included
    even if its folder is missing.

    Returns:
        Folders by name of the set. A set should have one folder; see `list_generated`.
    """
    parent = root / "stable_diffusion"
    folders: dict[str, list[Path]] = {}
    for entry in sorted(parent.iterdir()) if parent.is_dir() else ():
        if entry.is_dir() and not is_hidden(entry.name):
            folders.setdefault(f"sd_{entry.name.removeprefix('sd_')}", []).append(entry)
    folders.setdefault(PUBLISHED_GENERATED, [parent / PUBLISHED_GENERATED])
    return folders


def list_generated(name: str, folders: Sequence[Path]) -> list[Record]:
    """Return a record for each PNG and JPEG file below the sub-folder `images`; hidden and other files are ignored.

    Args:
        name: name of the set, for error messages.
        folders: folders of that name, see `find_generated`; there should be one.

    Returns:
        Records sorted by path, with `is_generated` set.

    Raises:
        UserError: two folders have the name, the folder is missing, or it has no images.
    """
    if len(folders) > 1:
        raise UserError(f"{name}: {' and '.join(map(str, folders))} both go by this name; rename one of them.")
    images = folders[0] / "images"
    files = image_files(images)
    if not files:
        what = "no image in" if images.is_dir() else "there is no folder"
        raise UserError(
            f"{name}: {what} {images}, where its generated images (*.png or *.jpg) should lie; put them there, set "
            f"DETECTRON2_DATASETS to the folder that holds stable_diffusion, or make some with: {GENERATE_COMMAND} "
            "(see datasets/README.md)."
        )
    return [
        {
            "file_name": str(file),
            "image_id": file.relative_to(images).with_suffix("").as_posix(),
            "is_generated": True,
        }
        for file in files
    ]
