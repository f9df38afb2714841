"""Where the files of a set lie under the data root, and the table of the sets that the benchmarks use."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS
from clouds.data.datasets.pairing import Place, Record, files_by_stem, pair
from clouds.data.encoding import LabelEncoding
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file

# The 62 pictures that the published list of training images leaves out.
GTA5_OMITTED = frozenset(f"{number:05d}" for number in (15188, 17705, *range(20801, 20861)))


def data_root() -> Path:
    """`$DETECTRON2_DATASETS`, else the folder `datasets`; absolute."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser().absolute()


@dataclass(frozen=True)
class Folders:
    """Where one set lies under the data root.

    A picture is any file `<folder>/**/<prefix><stem><ending>` of a pattern "<folder>/<prefix>*<ending>", its label map
    that with the same stem of the other pattern, whatever sub-folders (cities, sequences, or none) the two lie in. Of
    several patterns the first whose folder is there counts: downloads unpack to different places.
    A list `lists/<name>.txt` under the data root, see `read_list`, takes the place of this search.
    """

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    """Empty: the set has no label maps."""
    size: int | None = None
    """Number of pairs that a complete set has; None: not known."""
    downloaded: int | None = None
    """Number of pictures in the download, where some of them are left out."""
    converter: str | None = None
    """Which of `converters.FORMATS` makes the label maps; None: they come as they are used."""
    omitted: frozenset[str] = frozenset()
    """Stems that are left out."""
    encoding: LabelEncoding | None = None
    """Of the label maps; None: train ids."""
    classes: tuple[str, ...] = CITYSCAPES_CLASSES
    """Names by train id, synonyms separated by commas."""
    colors: tuple[tuple[int, int, int], ...] = CITYSCAPES_COLORS
    """RGB by train id."""

    def places(self, root: Path) -> list[Place]:
        """Of the pictures and, where the set has them, of the label maps."""
        return [_first_there(root, patterns) for patterns in (self.images, self.labels) if patterns]

    def home(self, root: Path) -> Path:
        """The folder that holds pictures and label maps."""
        return Path(os.path.commonpath([place.folder for place in self.places(root)]))

    def statistics(self, root: Path) -> Path:
        """The folder of the class statistics: where the converter puts them, else `statistics/<name>`."""
        return self.home(root) if self.converter else root / "statistics" / self.name

    def list_file(self, root: Path) -> Path:
        """Where a list of the set's files would lie."""
        return root / "lists" / f"{self.name}.txt"

    def load(self, root: Path) -> list[Record]:
        """The records of the set: of its list if there is one, else of the folders, see `pair_by_stem`."""
        images, *labels = self.places(root)
        if self.list_file(root).is_file():
            records = read_list(self.list_file(root), root, images)
        elif labels:
            records = pair(self.name, images, labels[0], self.omitted)
        else:
            files = files_by_stem(self.name, "images", images)
            records = [{"file_name": file, "image_id": stem} for stem, file in sorted(files.items())]
        if self.encoding:
            records = [{**record, "label_encoding": self.encoding} for record in records]
        return records


def read_list(file: Path, root: Path, images: Place) -> list[Record]:
    """Records of a list: a line a picture, `image<tab>label map`, paths relative to the data root.

    Args:
        file: the list.
        root: the data root.
        images: what the pictures are called.

    Raises:
        UserError: a line that is none.
    """
    records: list[Record] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        image, tab, label = line.partition("\t")
        stem = images.stem(Path(image).name)
        if stem is None or bool(tab) != bool(label):
            raise UserError(
                f"{file}, line {number}: {line!r} is no picture ({images.pattern}) with its label map after a "
                "tab; write the list again with: python tools/prepare_datasets.py --check --write-lists NAME."
            )
        record = {"file_name": str(root / image), "image_id": stem}
        records.append(record | ({"sem_seg_file_name": str(root / label)} if label else {}))
    return records


def write_list(file: Path, root: Path, records: Sequence[Record]) -> None:
    """Write what `read_list` reads.

    Raises:
        UserError: a file is not below the root.
    """
    lines = []
    for record in records:
        paths = [Path(record[key]) for key in ("file_name", "sem_seg_file_name") if key in record]
        if outside := [path for path in paths if not path.is_relative_to(root)]:
            raise UserError(f"{outside[0]} is not below {root}, so it cannot stand in a list of that data root.")
        lines.append("\t".join(path.relative_to(root).as_posix() for path in paths))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _first_there(root: Path, patterns: Sequence[str]) -> Place:
    places = []
    for pattern in patterns:
        folder, _, names = pattern.rpartition("/")
        prefix, _, ending = names.partition("*")
        places.append(Place(root / folder, ending, prefix))
    return next((place for place in places if place.folder.is_dir()), places[0])


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
    Folders(
        "gta5",
        ("gta5/images/*.png",),
        ("gta5/labels/*_labelTrainIds.png",),
        24904,
        downloaded=24966,
        converter="gta",
        omitted=GTA5_OMITTED,
    ),
    Folders(
        "synthia",
        ("synthia/RGB/*.png", "RAND_CITYSCAPES/RGB/*.png"),
        ("synthia/GT/LABELS/*_labelTrainIds.png", "RAND_CITYSCAPES/GT/LABELS/*_labelTrainIds.png"),
        9400,
        converter="synthia",
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
        converter="mapillary",
    ),
    *(_acdc(weather, size) for weather, size in (("night", 106), ("rain", 100), ("snow", 100), ("fog", 100))),
)

GROUPS: dict[str, tuple[str, ...]] = {
    "acdc_val": tuple(f"acdc_{weather}_val" for weather in ("night", "rain", "snow", "fog"))
}
"""Sets that are several sets together."""
