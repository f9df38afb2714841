"""Which data sets there are, and where their files lie: one row per set.

No data is looked at until a set is asked for: `register_datasets` only writes names into the catalogues, and folders
are listed when `DatasetCatalog.get(name)` (or, with better error messages, `load_dataset(name)`) is called. Names of
generated sets are those of the folders in `stable_diffusion`.
A record is `{"file_name", "sem_seg_file_name", "image_id"}`: absolute paths, and an id that is unique in its set. That
of a generated image has `is_generated` True in place of labels and, where the truth is known and something is to be
measured with it, `truth_file_name`.
"""

import difflib
import functools
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.labels import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, IGNORE_LABEL
from clouds.errors import UserError

Record = dict[str, Any]

# The 62 pictures that the published list of training images leaves out.
GTA5_OMITTED = frozenset(f"{number:05d}" for number in (15188, 17705, *range(20801, 20861)))

PUBLISHED_GENERATED = "sd_llama70b_v2"
"""The generated set that the published joint configs train on."""

GENERATE = "python generate_txt_im.py --folder NAME"
"""What makes generated sets."""


@dataclass(frozen=True)
class Folders:
    """Where one set lies under the data root.

    A picture is any file `<folder>/**/<stem><ending>` of a pattern "<folder>/*<ending>", its label map that with the
    same stem of the other pattern, whatever sub-folders (cities, sequences, or none) the two lie in. Where there are
    several patterns the first whose folder is there counts: downloads unpack to different places.
    """

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    size: int
    """Number of pairs that a complete download has."""
    converter: str | None = None
    """Which of `converters.FORMATS` makes the label maps; None: they come with train ids."""
    omitted: frozenset[str] = frozenset()

    def place(self, root: Path) -> tuple[Path, str, Path, str]:
        """Folder and ending of the pictures, folder and ending of the label maps."""
        return *_first_there(root, self.images), *_first_there(root, self.labels)

    def load(self, root: Path) -> list[Record]:
        """The records of the set, see `pair_by_stem`."""
        return pair_by_stem(self.name, *self.place(root), self.omitted)


def _first_there(root: Path, patterns: Sequence[str]) -> tuple[Path, str]:
    places = [(root / folder, ending) for folder, _, ending in (pattern.rpartition("/*") for pattern in patterns)]
    return next((place for place in places if place[0].is_dir()), places[0])


def _cityscapes(split: str, size: int) -> Folders:
    return Folders(
        f"cityscapes_{split}",
        tuple(
            f"cityscapes/{zipped}leftImg8bit/{split}/*_leftImg8bit.png" for zipped in ("", "leftImg8bit_trainvaltest/")
        ),
        tuple(
            f"cityscapes/{zipped}gtFine/{split}/*_gtFine_labelTrainIds.png" for zipped in ("", "gtFine_trainvaltest/")
        ),
        size,
        converter="cityscapes",
    )


def _acdc(weather: str, size: int) -> Folders:
    return Folders(
        f"acdc_{weather}_val",
        tuple(f"acdc/{zipped}rgb_anon/{weather}/val/*_rgb_anon.png" for zipped in ("", "rgb_anon_trainvaltest/")),
        tuple(f"acdc/{zipped}gt/{weather}/val/*_gt_labelTrainIds.png" for zipped in ("", "gt_trainval/")),
        size,
    )


_VISTAS = ("mapillary_vistas/validation", "mapillary-vistas-dataset_public_v1.2/validation")

DATASETS: tuple[Folders, ...] = (
    Folders("gta5", ("gta5/images/*.png",), ("gta5/labels/*_labelTrainIds.png",), 24904, "gta", GTA5_OMITTED),
    Folders(
        "synthia",
        ("synthia/RGB/*.png", "RAND_CITYSCAPES/RGB/*.png"),
        ("synthia/GT/LABELS/*_labelTrainIds.png", "RAND_CITYSCAPES/GT/LABELS/*_labelTrainIds.png"),
        9400,
        "synthia",
    ),
    _cityscapes("train", 2975),
    _cityscapes("val", 500),
    Folders(
        "bdd_val",
        tuple(f"{top}/{images}/val/*.jpg" for top in ("bdd10k", "bdd100k") for images in ("images/10k", "seg/images")),
        tuple(
            f"{top}/{labels}"
            for top in ("bdd10k", "bdd100k")
            for labels in ("labels/sem_seg/masks/val/*.png", "seg/labels/val/*_train_id.png")
        ),
        1000,
    ),
    Folders(
        "mapillary_val",
        tuple(f"{folder}/images/*.jpg" for folder in _VISTAS),
        tuple(
            f"{folder}/{version}labels/*_labelTrainIds.png" for folder in _VISTAS for version in ("", "v1.2/", "v2.0/")
        ),
        2000,
        "mapillary",
    ),
    *(_acdc(weather, size) for weather, size in (("night", 106), ("rain", 100), ("snow", 100), ("fog", 100))),
)


def _load_acdc(root: Path) -> list[Record]:
    """The four conditions of ACDC in one set; the ids begin with the condition."""
    return [
        {**record, "image_id": f"{folders.name.split('_')[1]}/{record['image_id']}"}
        for folders in DATASETS
        if folders.name.startswith("acdc_")
        for record in folders.load(root)
    ]


def register_datasets(root: Path | None = None, modules: Sequence[str] = ()) -> None:
    """Write every set's name into the catalogues; reads no file, and may be called again (with another root, too).

    A folder `stable_diffusion/sd_<v>` or `stable_diffusion/<v>` is the set `sd_<v>` of generated images.

    Args:
        root: folder that holds `gta5`, `cityscapes`, ...; default `$DETECTRON2_DATASETS`, else `datasets`.
        modules: names of Python modules with a function `register(root: Path) -> None` that adds sets of their own.

    Raises:
        UserError: a module cannot be found or has no `register`.
    """
    root = Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser().absolute()
    for folders in DATASETS:
        register(folders.name, functools.partial(folders.load, root))
    register("acdc_val", functools.partial(_load_acdc, root))
    for name, places in _generated_sets(root / "stable_diffusion").items():
        register(name, functools.partial(list_generated, name, places))
    for module in modules:
        _plug_in(module)(root)


def register(
    name: str,
    load: Callable[[], list[Record]],
    *,
    classes: Sequence[str] = CITYSCAPES_CLASSES,
    colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS,
) -> None:
    """Make a data set known by `name`, in place of an earlier one of that name.

    Args:
        name: what goes into `DATASETS.TRAIN` and `DATASETS.TEST`.
        load: lists the set; called when that is first used, and not again.
        classes: names by train id, synonyms separated by commas.
        colors: RGB 0..255 by train id.
    """
    # detectron2's catalogues refuse a second registration and a changed value, so the old entry goes first.
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    # Listed once a process: set-up asks for every set, and so does each evaluation.
    DatasetCatalog.register(name, functools.cache(load))
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes),
        stuff_colors=[list(color) for color in colors],
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
    )


def load_dataset(name: str) -> list[Record]:
    """The records of a registered set, sorted.

    Raises:
        UserError: no such set (the nearest name is given), its folders are missing or empty, labels are missing, or two
            records have the same id (or none).
    """
    known = DatasetCatalog.list()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
        if name.startswith("sd_"):
            hint += (
                f" A set of generated images is a folder stable_diffusion/{name} among the data, with the pictures in "
                f"its folder images; make one with: {GENERATE}."
            )
        raise UserError(f"There is no data set called {name!r}: {hint} Sets of your own come in by DATASETS.MODULES.")
    records: list[Record] = DatasetCatalog.get(name)
    if not records:
        raise UserError(f"Data set {name} has no images: check where its registration looks for them.")
    ids = Counter(record.get("image_id") for record in records)
    worst = None if None in ids else ids.most_common(1)[0][0]
    if worst is None or ids[worst] > 1:
        raise UserError(
            f"Data set {name}: {ids[worst]} record(s) with image_id {worst!r}; each needs one of its own, for what is "
            "written about its image."
        )
    return records


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
    image_files = files_by_stem(name, "images", images, image_suffix)
    label_files = files_by_stem(name, "label maps", labels, label_suffix)
    stems = [stem for stem in sorted(image_files, key=image_files.__getitem__) if stem not in omitted]
    orphans = [stem for stem in stems if stem not in label_files]
    if orphans:
        raise UserError(
            f"{name}: {len(orphans)} of {len(stems)} images have no label map, the first is {image_files[orphans[0]]} "
            f"(looked for {orphans[0]}{label_suffix} under {labels}); finish the download or the label conversion, "
            "see datasets/README.md."
        )
    return [{"file_name": image_files[s], "sem_seg_file_name": label_files[s], "image_id": s} for s in stems]


def list_generated(name: str, places: Sequence[Path]) -> list[Record]:
    """Records of all PNG and JPEG files in the sub-folder `images`, sorted; other files are left alone.

    Args:
        name: of the set, for messages.
        places: the folders that go by this name; there should be one.

    Raises:
        UserError: two folders go by the name, there is none, or it has no images.
    """
    if len(places) > 1:
        raise UserError(f"{name}: {' and '.join(map(str, places))} both go by this name; rename one of them.")
    images = places[0] / "images"
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        what = "no image in" if images.is_dir() else "there is no folder"
        raise UserError(
            f"{name}: {what} {images}, where its generated images (*.png or *.jpg) should lie; put them there, set "
            f"DETECTRON2_DATASETS to the folder that holds stable_diffusion, or make some with: {GENERATE} (see "
            "datasets/README.md)."
        )
    return [
        {
            "file_name": str(file),
            "image_id": file.relative_to(images).with_suffix("").as_posix(),
            "is_generated": True,
        }
        for file in files
    ]


def _generated_sets(folder: Path) -> dict[str, list[Path]]:
    """The folders of each generated set by its name; the published one's also where it is missing."""
    places: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir():
            places.setdefault(f"sd_{entry.name.removeprefix('sd_')}", []).append(entry)
    places.setdefault(PUBLISHED_GENERATED, [folder / PUBLISHED_GENERATED])
    return places


def files_by_stem(name: str, what: str, folder: Path, suffix: str) -> dict[str, str]:
    """The files `<folder>/**/<stem><suffix>`, links followed, by stem.

    Args:
        name: of the set, for messages.
        what: the files are, for messages.
        folder: to search.
        suffix: what follows the stem.

    Raises:
        UserError: there is no such folder or file, a stem occurs twice, a folder cannot be listed, or a link leads to a
            folder above it.
    """
    if not folder.is_dir():
        raise UserError(
            f"{name}: there is no folder {folder}, where its {what} (*{suffix}) should lie; "
            "put the data there or set DETECTRON2_DATASETS to the folder that holds it, see datasets/README.md."
        )
    found: dict[str, str] = {}
    # os.walk, not Path.rglob: GTA5's 50,000 label files list in a tenth of the time.
    for where, folders, files in os.walk(folder, followlinks=True, onerror=functools.partial(_not_listed, name)):
        for inner in folders:
            path = os.path.join(where, inner)  # noqa: PTH118
            if os.path.islink(path) and Path(where).resolve().is_relative_to(Path(path).resolve()):  # noqa: PTH114
                raise UserError(f"{name}: {path} is a link to a folder that it lies in, a circle; remove the link.")
        for file in files:
            if not file.endswith(suffix):
                continue
            stem = file[: -len(suffix)]
            path = os.path.join(where, file)  # noqa: PTH118 (a Path object per file is what os.walk avoids)
            if stem in found:
                raise UserError(f"{name}: {file} exists twice, as {found[stem]} and {path}; remove one of them.")
            found[stem] = path
    if not found:
        raise UserError(
            f"{name}: no {what} in {folder}, where files *{suffix} should lie; finish the download or the label "
            "conversion, see datasets/README.md."
        )
    return found


def _not_listed(name: str, error: OSError) -> None:
    raise UserError(f"{name}: the folder {error.filename} cannot be listed ({error.strerror}); see its permissions.")


def _plug_in(module: str) -> Callable[[Path], None]:
    # Python looks in the folder of the script that runs, which for tools/*.py is not where the user stands.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that exists but fails on an import of its own is a defect to be seen in full, not a wrong name.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"DATASETS.MODULES names {module!r}, but there is no such Python module, neither installed nor in {here}."
        ) from None
    register_function: Callable[[Path], None] | None = getattr(loaded, "register", None)
    if register_function is None:
        raise UserError(f"DATASETS.MODULES names {module!r}, which has no function register(root).")
    return register_function
