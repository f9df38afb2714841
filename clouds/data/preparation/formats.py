"""The formats of the downloaded label files: where they are, and what their values mean.

Adding a format is one function and one entry in `FORMATS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clouds.data.classes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_ID_TO_TRAIN_ID,
    CITYSCAPES_LABELS,
    GTA5_IDS,
    MAPILLARY_V1_ID_TO_TRAIN_ID,
    MAPILLARY_V1_IDS,
    SYNTHIA_ID_TO_TRAIN_ID,
    SYNTHIA_IDS,
    URBANSYN_IDS,
    mapillary_train_id,
)
from clouds.data.datasets.pairing import list_files
from clouds.data.encoding import LabelEncoding
from clouds.errors import UserError
from clouds.utils.json_files import read_json

CONVERTED_SUFFIX = "_labelTrainIds.png"
"""End of the name of a converted label map, which lies beside its label file."""

LabelFiles = tuple[dict[Path, Path], LabelEncoding]
"""The label map to write, by label file, and the encoding of the label files."""


@dataclass(frozen=True)
class LabelFormat:
    """Format of the label files of one data set."""

    name: str
    """Name of the data set."""
    gt_dir: str
    """Sub-folder of the label files."""
    find: Callable[[Path, str], LabelFiles]
    """Function of the data set's folder and the sub-folder; finds the label files."""


def find_gta(folder: Path, gt_dir: str) -> LabelFiles:
    """Find the label files of GTA5: palette PNGs of Cityscapes ids."""
    return _numbered(folder / gt_dir), LabelEncoding.of_ids(CITYSCAPES_ID_TO_TRAIN_ID, GTA5_IDS)


def find_synthia(folder: Path, gt_dir: str) -> LabelFiles:
    """Find the label files of SYNTHIA-RAND-CITYSCAPES: 16-bit RGB PNGs, class in red and instance in green."""
    return _numbered(folder / gt_dir), LabelEncoding.of_ids(SYNTHIA_ID_TO_TRAIN_ID, SYNTHIA_IDS, "red_ids")


def find_urbansyn(folder: Path, gt_dir: str) -> LabelFiles:
    """Find the label files of UrbanSyn: gray PNGs of train ids, in which 19 is void."""
    train_ids = {train_id: train_id for train_id in range(len(CITYSCAPES_CLASSES))}
    return _numbered(folder / gt_dir), LabelEncoding.of_ids(train_ids, URBANSYN_IDS, "gray_ids")


def find_cityscapes(folder: Path, gt_dir: str) -> LabelFiles:
    """Find the label files of Cityscapes in `<gt_dir>/<split>/<city>`: `*_labelIds.png`, or else `*_polygons.json`."""
    files: dict[Path, Path] = {}
    for suffix in ("_labelIds.png", "_polygons.json"):
        for source in _files(folder / gt_dir, suffix):
            files.setdefault(source.with_name(source.name.removesuffix(suffix) + CONVERTED_SUFFIX), source)
    ids = range(len(CITYSCAPES_LABELS))
    encoding = LabelEncoding.of_ids(CITYSCAPES_ID_TO_TRAIN_ID, ids, "cityscapes")
    return {source: target for target, source in sorted(files.items())}, encoding


def find_mapillary(folder: Path, gt_dir: str) -> LabelFiles:
    """Find the label files of Mapillary Vistas: palette PNGs of v1.2, or of v2.0, whose `config_v2.0.json` has the ids.

    `folder` is the `validation` or `training` folder. If there is no `<gt_dir>` in it, `v1.2/<gt_dir>` or else
    `v2.0/<gt_dir>` is taken, as in the later download.

    Raises:
        UserError: the configuration of v2.0 is missing, or a configuration is damaged.
    """
    candidates = [folder / gt_dir, folder / "v1.2" / gt_dir, folder / "v2.0" / gt_dir]
    label_folder = next((candidate for candidate in candidates if candidate.is_dir()), candidates[0])
    files = {
        source: source.with_name(source.stem + CONVERTED_SUFFIX)
        for source in _files(label_folder, ".png")
        if not source.name.endswith(CONVERTED_SUFFIX)
    }
    version = "2.0" if "v2.0" in label_folder.parts else "1.2"
    config = next(
        (
            config
            for above in (folder, folder.absolute().parent)
            for name in (f"config_v{version}.json", "config.json")
            if (config := above / name).is_file()
        ),
        None,
    )
    if config is None:
        if version == "2.0":
            raise UserError(
                f"The labels in {label_folder} are those of Mapillary Vistas 2.0, whose ids config_v2.0.json explains; "
                f"put that file of the download into {folder.absolute().parent}."
            )
        return files, LabelEncoding.of_ids(MAPILLARY_V1_ID_TO_TRAIN_ID, MAPILLARY_V1_IDS)
    content = read_json(config, dict, "download it again")
    try:
        names = [label["name"] for label in content["labels"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{config} is no configuration of Mapillary Vistas ({error!r}): download it again.") from error
    train_ids = {label_id: mapillary_train_id(name) for label_id, name in enumerate(names)}
    return files, LabelEncoding.of_ids(train_ids, range(len(names)))


FORMATS: dict[str, LabelFormat] = {
    "gta": LabelFormat("GTA5", "labels", find_gta),
    "synthia": LabelFormat("SYNTHIA", "GT/LABELS", find_synthia),
    "urbansyn": LabelFormat("UrbanSyn", "ss", find_urbansyn),
    "cityscapes": LabelFormat("Cityscapes", "gtFine", find_cityscapes),
    "mapillary": LabelFormat("Mapillary Vistas", "labels", find_mapillary),
}
"""Formats by the name of their command, `tools/convert_datasets/<name>.py`."""


def _numbered(folder: Path) -> dict[Path, Path]:
    """Find the label files whose name is a number; converted label maps and color versions are not."""
    return {
        source: source.with_name(source.stem + CONVERTED_SUFFIX)
        for source in _files(folder, ".png")
        if source.stem[-1:].isdigit()
    }


def _files(folder: Path, suffix: str) -> list[Path]:
    paths = list_files(folder.name, folder) if folder.is_dir() else ()
    return sorted(Path(path) for path in paths if path.endswith(suffix))
