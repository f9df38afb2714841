"""Predictions in the format of the test servers of Cityscapes and ACDC: file names, ids, the zip and its check.

Requirements of the servers, and how reliable this information is:

* Cityscapes: for each image one PNG with a single 8-bit channel, of the size of the image, with label ids (road is 7),
  named `<city>_<sequence>_<frame>*.png`, in any folder of a zip. Reliable: `evalPixelLevelSemanticLabeling` of the
  package cityscapesscripts, which the server runs, searches for exactly one file of that pattern, and its authors
  confirm it in their answers. The limit of 100 MB for the zip is not confirmed: a larger zip only causes a warning.
* ACDC: as Cityscapes, but with train ids (road is 0), named `<sequence>_frame_<frame>*.png`, in a folder
  `labelTrainIds` at the top of the zip, all four conditions together; the conditions to score are chosen in the form.
  Fairly reliable: the page with the requirements needs a login and was not read, but quotations by participants and
  their scripts agree with it, and the authors of ACDC use the same words on the server of a later data set.
"""

import io
import json
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID, lookup_table
from clouds.data.datasets.spec import DatasetSpec
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file, write_atomically
from clouds.utils.failures import raise_failures
from clouds.utils.images import DECODE_ERRORS, encoded, image_size, is_truncated_png, pillow_errors
from clouds.utils.json_files import parse_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """Requirements of a test server, and the location of its images.

    Attributes:
        title: name of the benchmark.
        specs: returns the data sets of a split, without label maps.
        stem: pattern of the image ids, by which the server finds the predictions.
        ending: end of the file name of a prediction, after the image id.
        folder: folder in the zip with a slash at its end; empty for none.
        ids: id of each class on the server, by train id.
        test_images: number of images in the test split; the server refuses a zip with fewer.
        limit: largest size of the zip in bytes; None if there is no limit.
        advice: address of the server and how to submit.
    """

    title: str
    specs: Callable[[str], tuple[DatasetSpec, ...]]
    stem: re.Pattern[str]
    ending: str
    folder: str
    ids: tuple[int, ...]
    test_images: int
    limit: int | None
    advice: str


def _cityscapes(split: str) -> tuple[DatasetSpec, ...]:
    places = ("leftImg8bit", "leftImg8bit_trainvaltest/leftImg8bit")
    images = tuple(f"cityscapes/{place}/{split}/*_leftImg8bit.png" for place in places)
    return (DatasetSpec(f"cityscapes_{split}", images, ()),)


def _acdc(split: str) -> tuple[DatasetSpec, ...]:
    places = ("rgb_anon", "rgb_anon_trainvaltest/rgb_anon")
    return tuple(
        DatasetSpec(
            f"acdc_{weather}_{split}", tuple(f"acdc/{place}/{weather}/{split}/*_rgb_anon.png" for place in places), ()
        )
        for weather in ("night", "rain", "snow", "fog")
    )


_LABEL_IDS = {train_id: label_id for label_id, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items()}

BENCHMARKS: dict[str, Benchmark] = {
    "cityscapes": Benchmark(
        title="Cityscapes",
        specs=_cityscapes,
        stem=re.compile(r"[^_]+_\d{6}_\d{6}"),
        ending="_labelIds.png",
        folder="",
        ids=tuple(_LABEL_IDS[train_id] for train_id in sorted(_LABEL_IDS)),
        test_images=1525,
        limit=100_000_000,
        advice="https://www.cityscapes-dataset.com/submit, as pixel-level semantic labeling",
    ),
    "acdc": Benchmark(
        title="ACDC",
        specs=_acdc,
        stem=re.compile(r".+_frame_\d{6}"),
        ending="_labelTrainIds.png",
        folder="labelTrainIds/",
        ids=tuple(sorted(_LABEL_IDS)),
        test_images=2000,
        limit=None,
        advice="https://acdc.vision.ee.ethz.ch/submit, as semantic segmentation, with the conditions to be scored",
    ),
}


def find_images(benchmark: Benchmark, split: str, root: Path) -> dict[str, Path]:
    """Find the images of a split.

    Args:
        benchmark: entry of `BENCHMARKS`.
        split: "test" or "val".
        root: root of the data sets.

    Returns:
        File name of the prediction -> path of the image, sorted.

    Raises:
        UserError: a folder is missing or has no images, the name of an image is unknown to the server or not unique, or
            the test split is incomplete.
    """
    found: dict[str, Path] = {}
    faults = []
    for spec in benchmark.specs(split):
        for record in spec.load(root):
            stem, path = record["image_id"], Path(record["file_name"])
            if not benchmark.stem.fullmatch(stem):
                faults.append(
                    f"{path} is not named like an image of {benchmark.title}, so the server would not find "
                    "its prediction: restore its name, or move it out of the folder."
                )
            name = f"{stem}{benchmark.ending}"
            if name in found:
                faults.append(
                    f"{path} and {found[name]} have the same name, but the server takes one prediction: "
                    "remove one of them."
                )
            found[name] = path
    raise_failures(faults, f"{len(faults)} of the images in the {split} split cannot be submitted", logger)
    if split == "test" and len(found) != benchmark.test_images:
        raise UserError(
            f"The test split of {benchmark.title} has {benchmark.test_images} images, but {len(found)} were found "
            f"(the first is {next(iter(found.values()))}), and the server needs all: finish the download."
        )
    return dict(sorted(found.items()))


def keep_origin(note: Path, origin: Mapping[str, Any], folder: Path) -> None:
    """Record the origin of the predictions in a folder, or check that it is the recorded one.

    Args:
        note: JSON file with the origin, written if the folder has no predictions.
        origin: setting -> value, of JSON types and tuples.
        folder: folder of the predictions.

    Raises:
        UserError: the folder holds predictions of another network or with other settings.
    """
    text = json.dumps(dict(origin), indent=2)
    if not folder.is_dir() or not any(folder.iterdir()):
        write_atomically(note, text)
        return
    expected = json.loads(text)  # tuples become lists
    try:
        recorded = dict(parse_json(note.read_bytes()))
    except (OSError, ValueError, TypeError):
        reason = "cannot be read"
    else:
        differing = [key for key in sorted({*expected, *recorded}) if expected.get(key) != recorded.get(key)]
        if not differing:
            return
        reason = f"differs in {differing[0]}"
    raise UserError(
        f"{folder} has predictions of another network or with other settings ({note.name} beside it {reason}): give "
        "another --output, or remove that folder."
    )


def write_labels(path: Path, labels: npt.NDArray[np.uint8], ids: tuple[int, ...]) -> None:
    """Write a prediction atomically.

    Args:
        path: path of the PNG, in an existing folder.
        labels: (H, W) uint8 train ids.
        ids: id of each class on the server, by train id.
    """
    table = lookup_table(dict(enumerate(ids)))
    # The smallest possible PNG, because the zip for Cityscapes has a size limit.
    write_atomically(path, encoded(Image.fromarray(table[labels]), "PNG", optimize=True))


def is_whole(path: Path, image: Path, ids: tuple[int, ...]) -> bool:
    """Return whether the prediction in `path` exists and meets the requirements of the server, see `fault_of`."""
    try:
        return fault_of(path.read_bytes(), image_size(str(image)), ids) is None
    except (OSError, UserError):
        return False


def fault_of(content: bytes, size: tuple[int, int], ids: tuple[int, ...]) -> str | None:
    """Check a prediction against the requirements of the server.

    Args:
        content: bytes of the file.
        size: (width, height) of the image in pixels.
        ids: ids that the server knows.

    Returns:
        The first fault, as the end of a sentence about the file; None if there is no fault.
    """
    try:
        with pillow_errors(), Image.open(io.BytesIO(content)) as image:
            kind, mode, labels = image.format, image.mode, np.asarray(image)
    except DECODE_ERRORS as error:
        return f"is damaged ({error})"
    if kind != "PNG" or mode != "L":
        return f"is a {kind} with the channels {mode}, not a PNG of one 8-bit channel"
    if is_truncated_png(content):
        return "is damaged (its end is missing)"
    if labels.shape[::-1] != size:
        return f"is {labels.shape[1]}x{labels.shape[0]} (width x height), but its image {size[0]}x{size[1]}"
    if unknown := sorted(set(np.flatnonzero(np.bincount(labels.ravel())).tolist()) - set(ids)):
        return f"has the id {unknown[0]}, which no class has"
    return None


def write_archive(path: Path, benchmark: Benchmark, folder: Path, images: Mapping[str, Path]) -> int:
    """Write predictions to a zip and check it. The zip gets its name after it has passed the check.

    Args:
        path: path of the zip. Equal predictions give an equal zip, byte for byte.
        benchmark: requirements of the server.
        folder: folder of the predictions.
        images: file name of the prediction -> path of the image, from `find_images`.

    Returns:
        The size of the zip in bytes.

    Raises:
        UserError: the zip does not meet the requirements of the server.
    """
    with atomic_file(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in images:
                # ZipInfo's default date, 1980, instead of the date of the file.
                entry = zipfile.ZipInfo(f"{benchmark.folder}{name}")
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED, 9)
        check_archive(file, benchmark, tqdm(images.items(), desc="check", unit="image"))
    return path.stat().st_size


def check_archive(file: Path | BinaryIO, benchmark: Benchmark, images: Iterable[tuple[str, Path]]) -> None:
    """Check that a zip has one prediction for each image that meets the requirements of the server.

    Args:
        file: the zip.
        benchmark: requirements of the server.
        images: (file name of the prediction, path of the image) of each image.

    Raises:
        UserError: the zip has faults. All are logged; the message describes the first one.
    """
    what = f"The zip for {benchmark.title}"
    faults = []
    try:
        with zipfile.ZipFile(file) as archive:
            rest = Counter(archive.namelist())
            for name, image in images:
                entry = f"{benchmark.folder}{name}"
                if (count := rest.pop(entry, 0)) != 1:
                    faults.append(f"It has {count} files {entry}; it must have one.")
                elif fault := fault_of(archive.read(entry), image_size(str(image)), benchmark.ids):
                    faults.append(f"{entry} {fault}.")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{what} cannot be read ({error}).") from error
    faults += [f"{entry} belongs to no image." for entry in sorted(rest.elements())]
    raise_failures(faults, f"{what} cannot be submitted, it has {len(faults)} fault(s)", logger)
