"""From the label maps that data sets come with to label maps of train ids, and counts of what is in them.

A converter is a table: which id means which train id. Every file is read whole (a damaged one is reported), counted,
translated by one look-up, and written beside the original in one piece; files that are there already are only counted,
so a stopped conversion goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds.data.classes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_ID_TO_TRAIN_ID,
    CITYSCAPES_LABELS,
    GTA5_IDS,
    IGNORE_LABEL,
    MAPILLARY_V1_ID_TO_TRAIN_ID,
    MAPILLARY_V1_IDS,
    SYNTHIA_ID_TO_TRAIN_ID,
    SYNTHIA_IDS,
    lookup_table,
    mapillary_train_id,
)
from clouds.data.datasets.pairing import list_files
from clouds.data.encoding import read_ids, read_label, read_red_ids
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically
from clouds.utils.processes import parallel_map

Ids = npt.NDArray[np.integer]
Counts = dict[int, int]
"""Pixels by train id, of the classes that occur."""
_Result = tuple[Counts, bool] | str

TARGET = "_labelTrainIds.png"
_NUM_CLASSES = len(CITYSCAPES_CLASSES)
# Rows unfiltered, where OpenCV can be told so: label maps get smaller by it and are read in half the time.
_PNG = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []


@dataclass(frozen=True)
class Encoding:
    """What the numbers in a data set's label files mean."""

    train_ids: Mapping[int, int]
    """Train id by id; the other `ids` are ignored (255)."""
    ids: range
    """All ids that the data set has; any other is a fault of the file."""
    read: Callable[[str], Ids]
    """The ids in a file: (H, W). A function of a module, so that it can be sent to other processes."""


@dataclass(frozen=True)
class Format:
    """How one data set comes: `find(folder, gt_dir)` gives label files with the files to make, and their encoding."""

    name: str
    gt_dir: str
    find: Callable[[Path, str], tuple[dict[Path, Path], Encoding]]


@dataclass
class Conversion:
    """What came of it, by the file that was made or should have been, in sorted order."""

    counts: dict[Path, Counts] = field(default_factory=dict)
    made: int = 0
    """Files written; the others of `counts` were there."""
    problems: dict[Path, str] = field(default_factory=dict)
    """A sentence about every label file (of the download) that could not be converted."""


def draw_polygons(path: str) -> npt.NDArray[np.uint8]:
    """The label ids of a Cityscapes `*_polygons.json`: (H, W), later polygons over earlier ones, 0 where there is none.

    Drawn like Cityscapes' own scripts draw them: deleted polygons and those of negative id (license plates) are left
    out, "cargroup" is "car".

    Raises:
        UserError: not such a file, or a label that Cityscapes does not have.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        size = content["imgWidth"], content["imgHeight"]
        objects = [
            (shape["label"], [tuple(point) for point in shape["polygon"]])
            for shape in content["objects"]
            if not shape.get("deleted")
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The polygons {path} cannot be read ({error!r}): copy or download them again.") from error
    canvas = Image.new("L", size, 0)
    pen = ImageDraw.Draw(canvas)
    for label, polygon in objects:
        name = label if label in CITYSCAPES_LABELS else label.removesuffix("group")
        if name == "license plate":
            continue
        if name not in CITYSCAPES_LABELS:
            raise UserError(f"{path} has a polygon of {label!r}, which is no label of Cityscapes: download it again.")
        try:
            pen.polygon(polygon, fill=CITYSCAPES_LABELS.index(name))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} has a polygon of {label!r} that cannot be drawn ({error}).") from error
    return np.asarray(canvas)


def read_cityscapes(path: str) -> Ids:
    """The label ids of either kind of Cityscapes label file."""
    return draw_polygons(path) if path.endswith(".json") else read_ids(path)


def find_gta(folder: Path, gt_dir: str) -> tuple[dict[Path, Path], Encoding]:
    """GTA5: palette PNGs of Cityscapes ids."""
    return _numbered(folder / gt_dir), Encoding(CITYSCAPES_ID_TO_TRAIN_ID, GTA5_IDS, read_ids)


def find_synthia(folder: Path, gt_dir: str) -> tuple[dict[Path, Path], Encoding]:
    """SYNTHIA-RAND-CITYSCAPES: 16-bit RGB PNGs, the class in red and the instance in green."""
    return _numbered(folder / gt_dir), Encoding(SYNTHIA_ID_TO_TRAIN_ID, SYNTHIA_IDS, read_red_ids)


def find_cityscapes(folder: Path, gt_dir: str) -> tuple[dict[Path, Path], Encoding]:
    """Cityscapes: `*_labelIds.png`, or else `*_polygons.json`, in `<gt_dir>/<split>/<city>`."""
    files: dict[Path, Path] = {}
    for ending in ("_labelIds.png", "_polygons.json"):
        for source in _files(folder / gt_dir, ending):
            files.setdefault(source.with_name(source.name.removesuffix(ending) + TARGET), source)
    encoding = Encoding(CITYSCAPES_ID_TO_TRAIN_ID, range(len(CITYSCAPES_LABELS)), read_cityscapes)
    return {source: target for target, source in sorted(files.items())}, encoding


def find_mapillary(folder: Path, gt_dir: str) -> tuple[dict[Path, Path], Encoding]:
    """Mapillary Vistas' `validation` or `training` folder: palette PNGs of v1.2, or of v2.0 by its `config_v2.0.json`.

    Without `<gt_dir>` those of `v1.2/<gt_dir>`, else `v2.0/<gt_dir>`, are taken, as the later download has them.
    """
    places = [folder / gt_dir, folder / "v1.2" / gt_dir, folder / "v2.0" / gt_dir]
    place = next((place for place in places if place.is_dir()), places[0])
    files = {
        source: source.with_name(source.stem + TARGET)
        for source in _files(place, ".png")
        if not source.name.endswith(TARGET)
    }
    version = "2.0" if "v2.0" in place.parts else "1.2"
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
                f"The labels in {place} are those of Mapillary Vistas 2.0, whose ids config_v2.0.json explains; put "
                f"that file of the download into {folder.absolute().parent}."
            )
        return files, Encoding(MAPILLARY_V1_ID_TO_TRAIN_ID, MAPILLARY_V1_IDS, read_ids)
    try:
        names = [label["name"] for label in json.loads(config.read_text(encoding="utf-8"))["labels"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config} is no configuration of Mapillary Vistas ({error!r}): download it again.") from error
    return files, Encoding({i: mapillary_train_id(name) for i, name in enumerate(names)}, range(len(names)), read_ids)


FORMATS: dict[str, Format] = {
    "gta": Format("GTA5", "labels", find_gta),
    "synthia": Format("SYNTHIA", "GT/LABELS", find_synthia),
    "cityscapes": Format("Cityscapes", "gtFine", find_cityscapes),
    "mapillary": Format("Mapillary Vistas", "labels", find_mapillary),
}


def convert(
    files: Mapping[Path, Path], encoding: Encoding, *, processes: int = 1, overwrite: bool = False
) -> Conversion:
    """Make the label maps of train ids: 8-bit one-channel PNGs, 0..18 and 255.

    Args:
        files: label file to the file to make of it.
        encoding: of the label files.
        processes: how many work at a time.
        overwrite: also make those again that are there, whole and newer than their originals.
    """
    done = Conversion()
    work = partial(_convert_one, encoding, overwrite)
    for (source, target), result in parallel_map(work, list(files.items()), processes=processes):
        if isinstance(result, str):
            done.problems[source] = result
        else:
            done.counts[target] = result[0]
            done.made += result[1]
    return done


def count_classes(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How often each value is in a label map (H, W): (256,)."""
    values = np.ascontiguousarray(label).ravel()
    # Run by run, not pixel by pixel: a label map has a hundred times fewer. Sums in fp64 are exact.
    last = np.flatnonzero(np.append(values[1:] != values[:-1], np.ones(min(1, values.size), np.bool_)))
    return np.bincount(values[last], np.diff(last, prepend=-1), minlength=256).astype(np.int64)


def write_class_statistics(folder: Path, root: Path, counts: Mapping[Path, Counts]) -> None:
    """Write the three files that rare-class sampling reads, as published: `sample_class_stats.json` (a list of
    {train id: pixels, "file": name}), `sample_class_stats_dict.json` (the same by file) and `samples_with_class.json`
    (train id: [[file, pixels], ...]). Names are relative to `root`, so that the data set may be moved."""
    by_file = {file.relative_to(root).as_posix(): count for file, count in counts.items()}
    by_class: dict[int, list[tuple[str, int]]] = {}
    for file, count in by_file.items():
        for train_id, pixels in count.items():
            by_class.setdefault(train_id, []).append((file, pixels))
    _write_json(folder / "sample_class_stats.json", [{**count, "file": file} for file, count in by_file.items()])
    _write_json(folder / "sample_class_stats_dict.json", by_file)
    _write_json(folder / "samples_with_class.json", dict(sorted(by_class.items())))


def write_split_lists(folder: Path, gt_folder: Path, targets: Sequence[Path]) -> None:
    """Cityscapes' `train.txt`, `val.txt` and `test.txt`: `<city>/<image>` a line, for the splits that are there."""
    splits: dict[str, list[str]] = {}
    for target in targets:
        split, *rest = target.relative_to(gt_folder).parts
        if rest:
            splits.setdefault(split, []).append("/".join(rest).removesuffix(TARGET).rpartition("_")[0])
    for split, names in splits.items():
        write_atomically(folder / f"{split}.txt", "".join(f"{name}\n" for name in sorted(names)))


def _convert_one(encoding: Encoding, overwrite: bool, pair: tuple[Path, Path]) -> _Result:
    """The counts of the classes and whether the file was written; or what is wrong."""
    source, target = pair
    try:
        if not overwrite and (made := _made_before(source, target)) is not None:
            return _as_counts(count_classes(made)), False
        ids = encoding.read(str(source))
        if ids.dtype != np.uint8 and ids.size and int(ids.max()) > IGNORE_LABEL:
            raise UserError(f"{source} has the id {ids.max()}, but ids go to {encoding.ids[-1]} here.")
        source_ids = ids.astype(np.uint8, copy=False)
        found = count_classes(source_ids)
        unknown = [int(i) for i in np.flatnonzero(found) if i not in encoding.ids]
        if unknown:
            listed = ", ".join(f"{i} on {found[i]} pixels" for i in unknown[:5])
            raise UserError(
                f"{source} has {len(unknown)} id(s) that its data set does not have ({listed}; known: 0 to "
                f"{encoding.ids[-1]}); see that these are the original label maps."
            )
        table = lookup_table(encoding.train_ids)
        label = np.asarray(cv2.LUT(source_ids, table), np.uint8)
        written, png = cv2.imencode(".png", label, _PNG)
        assert written, f"{source}: OpenCV could not encode a label map of {label.shape}"
        write_atomically(target, png.tobytes())
        return _as_counts(np.bincount(table, found, minlength=256).astype(np.int64)), True
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{target} cannot be written ({error.strerror}): check the folder's permissions and the disk's space."


def _made_before(source: Path, target: Path) -> npt.NDArray[np.uint8] | None:
    try:
        if target.stat().st_mtime < source.stat().st_mtime:
            return None
        return read_label(str(target), _NUM_CLASSES)
    except (FileNotFoundError, UserError):
        return None


def _as_counts(histogram: npt.NDArray[np.int64]) -> Counts:
    return {c: int(histogram[c]) for c in range(_NUM_CLASSES) if histogram[c]}


def _numbered(folder: Path) -> dict[Path, Path]:
    """The label maps that are called by a number: what was made of them, and colour versions, are not."""
    return {
        source: source.with_name(source.stem + TARGET)
        for source in _files(folder, ".png")
        if source.stem[-1:].isdigit()
    }


def _files(folder: Path, ending: str) -> list[Path]:
    return (
        sorted(Path(path) for path in list_files(folder.name, folder) if path.endswith(ending))
        if folder.is_dir()
        else []
    )


def _write_json(file: Path, content: Any) -> None:
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False))
