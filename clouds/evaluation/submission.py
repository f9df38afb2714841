"""Predictions as the test servers of Cityscapes and ACDC take them: names, ids, the zip, and a check of it.

What the servers take, and how sure that is:

* Cityscapes: for each image one PNG of a single 8-bit channel, as large as the image, with label ids (road is 7),
  called `<city>_<sequence>_<frame>*.png`, in any folder of a zip. Sure: `evalPixelLevelSemanticLabeling` of the package
  cityscapesscripts, which the server runs, looks for exactly one file of that pattern, and its authors answer questions
  so. That the zip may have 100 MB at most is hearsay: a larger one only gets a warning.
* ACDC: the same, but with train ids (road is 0), called `<sequence>_frame_<frame>*.png`, below a folder `labelTrainIds`
  at the top of the zip, all four conditions together; which of them are scored is chosen in the form. Fairly sure: the
  page that says so needs a login and was not seen, but what participants quote from it and their scripts agree, and the
  authors of ACDC ask for the same, word for word, on the server of a later data set.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID, lookup_table
from clouds.data.datasets.spec import DatasetSpec
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file, write_atomically
from clouds.utils.images import DECODE_ERRORS, image_size, is_truncated_png

Size = tuple[int, int]
"""(width, height), as Pillow has it."""


@dataclass(frozen=True)
class Benchmark:
    """What one server wants, and where the images lie."""

    title: str
    sets: Callable[[str], tuple[DatasetSpec, ...]]
    """Where the images of a split lie; no label maps are looked for."""
    stem: re.Pattern[str]
    """What all names of its images are like, without the ending; the server finds a prediction by that."""
    ending: str
    """What follows the stem in the name of a prediction."""
    folder: str
    """Inside the zip; "" for none, else with a slash at its end."""
    ids: tuple[int, ...]
    """What the server calls a class, by train id."""
    test_images: int
    """In the test split; the server refuses a zip with fewer."""
    limit: int | None
    """Bytes that the zip may have, if there is such a limit."""
    advice: str
    """Where to go with the zip."""


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
        sets=_cityscapes,
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
        sets=_acdc,
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
    """The images of a split by the name that the prediction gets, in sorted order.

    Args:
        benchmark: one of `BENCHMARKS`.
        split: "test" or "val".
        root: the data root.

    Raises:
        UserError: a folder is missing or has no images, an image has a name that the server does not know or that of
            another, or the test split is not complete.
    """
    found: dict[str, Path] = {}
    for spec in benchmark.sets(split):
        for record in spec.load(root):
            stem, path = record["image_id"], Path(record["file_name"])
            if not benchmark.stem.fullmatch(stem):
                raise UserError(
                    f"{path} is not called like an image of {benchmark.title}, so the server would not find what is "
                    "predicted for it: give it back its name or take it out of the folder."
                )
            name = f"{stem}{benchmark.ending}"
            if name in found:
                raise UserError(
                    f"{path} and {found[name]} have the same name, of which the server takes one: remove one of them."
                )
            found[name] = path
    if split == "test" and len(found) != benchmark.test_images:
        raise UserError(
            f"The test split of {benchmark.title} has {benchmark.test_images} images, but {len(found)} are there "
            f"(the first is {next(iter(found.values()))}), and the server wants all: finish the download."
        )
    return dict(sorted(found.items()))


def keep_origin(note: Path, origin: Mapping[str, Any], folder: Path) -> None:
    """Write down what made the predictions in a folder, or see that it is the same again.

    Args:
        note: a JSON file, made where it is missing.
        origin: setting to value; what JSON knows, and tuples.
        folder: of the predictions.

    Raises:
        UserError: the folder holds predictions of another network or other settings.
    """
    text = json.dumps(dict(origin), indent=2)
    if not folder.is_dir() or not any(folder.iterdir()):
        write_atomically(note, text)
        return
    mine = json.loads(text)  # as it is read: tuples become lists
    try:
        theirs = dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        reason = "cannot be read"
    else:
        differing = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
        if not differing:
            return
        reason = f"differs in {differing[0]}"
    raise UserError(
        f"{folder} has predictions of another network or of other settings ({note.name} beside it {reason}): give "
        "another --output, or remove that folder."
    )


def write_labels(path: Path, labels: npt.NDArray[np.uint8], ids: tuple[int, ...]) -> None:
    """Write a prediction, whole or not at all.

    Args:
        path: of the PNG; its folder is there.
        labels: (H, W) uint8 train ids.
        ids: what the server calls them, by train id.
    """
    table = lookup_table(dict(enumerate(ids)))
    with atomic_file(path) as part:
        # As small as PNG gets: a zip of Cityscapes must stay below a limit.
        Image.fromarray(table[labels]).save(part, format="PNG", optimize=True)


def is_whole(path: Path, image: Path, ids: tuple[int, ...]) -> bool:
    """Whether the prediction for `image` in `path` is there and as the server wants it."""
    try:
        return fault_of(path.read_bytes(), image_size(str(image)), ids) is None
    except (OSError, UserError):
        return False


def fault_of(content: bytes, size: Size, ids: tuple[int, ...]) -> str | None:
    """What is wrong with a prediction, to stand behind its name; None: nothing.

    Args:
        content: of the file.
        size: of its image.
        ids: that may be in it.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            kind, mode, found = picture.format, picture.mode, np.asarray(picture)
    except DECODE_ERRORS as error:
        return f"is damaged ({error})"
    if kind != "PNG" or mode != "L":
        return f"is a {kind} with the channels {mode}, not a PNG of one 8-bit channel"
    if is_truncated_png(content):
        return "is damaged (its end is missing)"
    if found.shape[::-1] != size:
        return f"is {found.shape[1]}x{found.shape[0]} (width x height), but its image {size[0]}x{size[1]}"
    if strange := sorted(set(np.flatnonzero(np.bincount(found.ravel())).tolist()) - set(ids)):
        return f"has the id {strange[0]}, which no class has"
    return None


def write_archive(path: Path, benchmark: Benchmark, folder: Path, images: Mapping[str, Path]) -> int:
    """Put predictions into a zip, check it, and only then give it its name.

    Args:
        path: of the zip. The same predictions make the same zip, byte for byte.
        benchmark: whose it is.
        folder: of the predictions.
        images: of `find_images`.

    Returns:
        its size in bytes.

    Raises:
        UserError: it is not as the server wants it.
    """
    with atomic_file(path) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in images:
                # The date that ZipInfo has by itself, 1980, in place of the file's.
                entry = zipfile.ZipInfo(f"{benchmark.folder}{name}")
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED, 9)
        check_archive(part, benchmark, tqdm(images.items(), desc="check", unit="image"))
    return path.stat().st_size


def check_archive(path: Path, benchmark: Benchmark, images: Iterable[tuple[str, Path]]) -> None:
    """See that a zip has one whole prediction for each image, of its size and with ids that the server knows.

    Args:
        path: of the zip.
        benchmark: whose it is.
        images: name of the prediction and path of the image.

    Raises:
        UserError: the first fault.
    """
    what = f"The zip for {benchmark.title}"
    try:
        with zipfile.ZipFile(path) as archive:
            rest = Counter(archive.namelist())
            for name, image in images:
                entry = f"{benchmark.folder}{name}"
                if (count := rest.pop(entry, 0)) != 1:
                    raise UserError(f"{what} has {count} files {entry}, where one is wanted.")
                if fault := fault_of(archive.read(entry), image_size(str(image)), benchmark.ids):
                    raise UserError(f"{what} is not fit to be handed in: {entry} {fault}.")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{what} cannot be read ({error}).") from error
    if rest:
        raise UserError(f"{what} has {rest.total()} files that belong to no image, the first is {min(rest)}.")
