"""The catalog of data sets: registering them by name, and loading their records.

Registering reads no data: `register_datasets` writes names into detectron2's catalogs, and the folders of a set are
listed when `load_dataset(name)` (or `DatasetCatalog.get(name)`, with terser error messages) is first called.

A module named in `DATASETS.MODULES` adds data sets of its own: its function `register(root)` calls `register` here.
"""

import difflib
import functools
import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, IGNORE_LABEL
from clouds.data.datasets.builtin import BUILTIN_DATASETS, DATASET_GROUPS
from clouds.data.datasets.custom import read_custom
from clouds.data.datasets.generated import GENERATE_COMMAND, find_generated, list_generated
from clouds.data.datasets.pairing import pair_by_stem
from clouds.data.datasets.record import Record
from clouds.data.datasets.selection import PARTS, Part
from clouds.data.datasets.spec import DatasetSpec, data_root, name_fault
from clouds.errors import UserError
from clouds.utils.paths import user_path

__all__ = [
    "Record",
    "dataset_names",
    "dataset_specs",
    "domain",
    "domains",
    "load_dataset",
    "pair_by_stem",
    "register",
    "register_datasets",
    "require_names",
]

_MAX_ID = 1024  # bytes; a path has at most 4096, and percent-encoding triples the length


def register_datasets(root: Path | None = None, modules: Sequence[str] = (), custom: Sequence[str] = ()) -> None:
    """Register the built-in, custom and generated data sets and those of plug-in modules.

    It may be called again, also with another root; data sets registered before are replaced.

    Args:
        root: folder that holds `gta5`, `cityscapes`, ...; default: `data_root()`.
        modules: names of Python modules with a function `register(root: Path) -> None`.
        custom: paths of YAML files that describe data sets, see `clouds.data.datasets.custom`.

    Raises:
        UserError: a module does not exist or has no function `register`, or a YAML file is invalid or describes a data
            set whose name is taken.
    """
    root = user_path(root or data_root()).absolute()
    specs = dataset_specs(custom)
    for spec in specs:
        load = functools.partial(spec.load, root)
        register(spec.name, load, classes=spec.classes, colors=spec.colors, domain=spec.domain)
    for name, members in DATASET_GROUPS.items():
        register(name, functools.partial(_load_group, [spec for spec in specs if spec.name in members], root))
    for name, part in PARTS.items():
        spec = next(spec for spec in specs if spec.name == part.whole)
        load = functools.partial(_load_part, part)
        register(name, load, classes=spec.classes, colors=spec.colors, domain=domain(spec.name))
    for name, folders in find_generated(root).items():
        if any(spec.name == name for spec in specs):
            raise UserError(f"A YAML file describes the data set {name}, but {folders[0]} has this name; rename one.")
        # Not checked: the name is that of a folder, so it cannot lead out of one.
        _register(name, functools.partial(list_generated, name, folders), CITYSCAPES_CLASSES, CITYSCAPES_COLORS)
    for module in modules:
        _import_plugin(module)(root)


def dataset_specs(custom: Sequence[str] = ()) -> list[DatasetSpec]:
    """Return the specs of the built-in data sets, then those of the given YAML files.

    Raises:
        UserError: a YAML file is invalid, or describes a data set whose name is taken.
    """
    specs = {spec.name: spec for spec in BUILTIN_DATASETS}
    for file in custom:
        for spec in read_custom(Path(file)):
            if spec.name in {*specs, *DATASET_GROUPS, *PARTS}:
                raise UserError(f"{file} describes the data set {spec.name}, but there is one already; rename it.")
            specs[spec.name] = spec
    return list(specs.values())


def dataset_names(value: str | Sequence[str]) -> list[str]:
    """Return the names in `DATASETS.TRAIN` or `DATASETS.TEST`. Published configs have ("gta5"), which is a str."""
    return [value] if isinstance(value, str) else list(value)


def require_names(key: str, names: Sequence[str], custom: Sequence[str]) -> None:
    """Check that a config key names a data set.

    Args:
        key: config key, for the message.
        names: its value.
        custom: paths of YAML files; their data sets are proposed.

    Raises:
        UserError: there is no name.
    """
    if names:
        return
    own = [spec.name for file in custom for spec in read_custom(Path(file))]
    such = f", such as {own[0]} of {custom[0]}" if own else ""
    raise UserError(f"{key} is empty: name at least one data set{such}.")


def register(
    name: str,
    load: Callable[[], list[Record]],
    *,
    classes: Sequence[str] = CITYSCAPES_CLASSES,
    colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS,
    domain: str = "",
) -> None:
    """Register a data set, replacing an earlier one of the same name.

    Args:
        name: name in `DATASETS.TRAIN` and `DATASETS.TEST`.
        load: function that returns the records; called once, when they are first needed.
        classes: class names by train id, synonyms separated by commas.
        colors: RGB colors, 0 to 255, by train id.
        domain: name that the splits of one data set share; "" for the rule of `domain`.

    Raises:
        UserError: the name is invalid, see `clouds.data.datasets.spec.name_fault`.
    """
    if fault := name_fault(name):
        raise UserError(f"The name of a data set {fault}: rename it where it is registered.")
    _register(name, load, classes, colors, domain)


def _register(
    name: str,
    load: Callable[[], list[Record]],
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    domain: str = "",
) -> None:
    # detectron2's catalogs refuse a second registration and a changed value, so the old entry is removed first.
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    # Cached, because set-up and every evaluation ask for the records.
    DatasetCatalog.register(name, functools.cache(load))
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes),
        stuff_colors=[list(color) for color in colors],
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
        domain=domain or re.sub(r"_(train|trainval|val|test)$", "", name),
    )


def domain(name: str) -> str:
    """Return the domain of a data set, which its splits share: its name without the split, or as it was registered."""
    found: str = getattr(MetadataCatalog.get(name), "domain", name)
    return found


def domains() -> set[str]:
    """Return the domains of all registered data sets."""
    return set(map(domain, DatasetCatalog.list()))


def load_dataset(name: str) -> list[Record]:
    """Return the records of a registered data set, in a fixed order.

    Raises:
        UserError: the name is unknown (the message names the nearest one), a folder is missing or empty, an image has
            no label map, or an `image_id` is missing or not unique.
    """
    known = DatasetCatalog.list()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
        if name.startswith("sd_"):  # before the list, which is long with detectron2
            hint = (
                f"a set of generated images is a folder stable_diffusion/{name} among the data, with the images in "
                f"its folder images; make one with: {GENERATE_COMMAND}. Otherwise: {hint}"
            )
        raise UserError(f"There is no data set called {name!r}: {hint} To add your own, see datasets/README.md.")
    # Names of data sets that were put into detectron2's catalog directly are checked here only.
    if name == ".." or Path(name).name != name:
        raise UserError(f"The data set {name!r} has a path as its name, and folders are named after it: rename it.")
    records: list[Record] = DatasetCatalog.get(name)
    if not records:
        raise UserError(f"Data set {name} has no images: check where its registration looks for them.")
    _check_ids(name, records)
    return records


def _check_ids(name: str, records: Sequence[Record]) -> None:
    for image_id in (record.get("image_id") for record in records):
        if image_id is not None and not (isinstance(image_id, str) and _size(image_id) <= _MAX_ID):
            raise UserError(
                f"Data set {name}: the image_id {image_id!r:.50} must be a str of at most {_MAX_ID} bytes, because "
                "outputs are named after it."
            )
    ids = Counter(record.get("image_id") for record in records)
    worst = None if None in ids else ids.most_common(1)[0][0]
    if worst is None or ids[worst] > 1:
        raise UserError(
            f"Data set {name}: {ids[worst]} record(s) with image_id {worst!r}; each needs one of its own, because "
            "outputs are named after it."
        )


def _size(image_id: str) -> int:
    return len(image_id) if image_id.isascii() else len(image_id.encode(errors="surrogatepass"))


def _load_group(specs: Sequence[DatasetSpec], root: Path) -> list[Record]:
    """Concatenate data sets. The image ids are prefixed by what distinguishes the sets: "night" of acdc_night_val."""
    return [
        {**record, "image_id": f"{spec.name.split('_')[1]}/{record['image_id']}"}
        for spec in specs
        for record in spec.load(root)
    ]


def _load_part(part: Part) -> list[Record]:
    return [record for record in load_dataset(part.whole) if part.has(record["image_id"])]


def _import_plugin(module: str) -> Callable[[Path], None]:
    """Import a module of `DATASETS.MODULES` and return its function `register`."""
    # Python searches the folder of the script that runs, which for tools/*.py is not the current folder.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that exists but fails on an import of its own is a defect to be seen in full, not a wrong name.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"The plug-in for data sets {module!r} is not a Python module that is installed or in {here}."
        ) from None
    register_function: Callable[[Path], None] | None = getattr(loaded, "register", None)
    if register_function is None:
        raise UserError(f"The plug-in for data sets {module!r} has no function register(root).")
    return register_function
