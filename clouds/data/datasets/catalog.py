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
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, IGNORE_LABEL
from clouds.data.datasets.builtin import DATASETS, GROUPS, Folders, data_root
from clouds.data.datasets.custom import read_custom
from clouds.data.datasets.pairing import Record, pair_by_stem
from clouds.errors import UserError

__all__ = ["Record", "list_generated", "load_dataset", "pair_by_stem", "register", "register_datasets"]

PUBLISHED_GENERATED = "sd_llama70b_v2"
"""The generated set that the published joint configs train on."""

GENERATE = "python generate_txt_im.py --folder NAME"
"""What makes generated sets."""


def register_datasets(root: Path | None = None, modules: Sequence[str] = (), custom: Sequence[str] = ()) -> None:
    """Write every set's name into the catalogues; lists no folder, and may be called again (with another root, too).

    A folder `stable_diffusion/sd_<v>` or `stable_diffusion/<v>` is the set `sd_<v>` of generated images.

    Args:
        root: folder that holds `gta5`, `cityscapes`, ...; default `data_root()`.
        modules: names of Python modules with a function `register(root: Path) -> None` that adds sets of their own.
        custom: YAML files that describe sets, see `clouds.data.datasets.custom`.

    Raises:
        UserError: a module cannot be found or has no `register`, or a YAML file describes no set.
    """
    root = Path(root or data_root()).expanduser().absolute()
    rows = described(custom)
    for folders in rows:
        register(folders.name, functools.partial(folders.load, root), classes=folders.classes, colors=folders.colors)
    for name, parts in GROUPS.items():
        register(name, functools.partial(_load_together, [each for each in rows if each.name in parts], root))
    for name, places in _generated_sets(root / "stable_diffusion").items():
        register(name, functools.partial(list_generated, name, places))
    for module in modules:
        _plug_in(module)(root)


def described(custom: Sequence[str] = ()) -> list[Folders]:
    """Every set of the table and of these YAML files.

    Raises:
        UserError: a YAML file describes no set, or one whose name is taken.
    """
    rows = {folders.name: folders for folders in DATASETS}
    for file in custom:
        for folders in read_custom(Path(file)):
            if folders.name in rows or folders.name in GROUPS:
                raise UserError(f"{file} describes the data set {folders.name}, but there is one already; rename it.")
            rows[folders.name] = folders
    return list(rows.values())


def named(sets: str | Sequence[str]) -> list[str]:
    """The names in `DATASETS.TRAIN` or `DATASETS.TEST`: published configs have ("gta5"), which is no tuple."""
    return [sets] if isinstance(sets, str) else list(sets)


def _load_together(parts: Sequence[Folders], root: Path) -> list[Record]:
    """Several sets in one; the ids begin with what tells the sets apart, "night" of acdc_night_val."""
    return [
        {**record, "image_id": f"{folders.name.split('_')[1]}/{record['image_id']}"}
        for folders in parts
        for record in folders.load(root)
    ]


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
        raise UserError(f"There is no data set called {name!r}: {hint} Sets of your own come in by DATASETS.CUSTOM.")
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
