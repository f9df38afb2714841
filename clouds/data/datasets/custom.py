"""Custom data sets: a YAML file describes where the files lie and what the values in the label maps mean.

    name: camvid
    folder: camvid                     # under the data root, or absolute; default: the name
    splits:                            # each is a data set: camvid_train and camvid_val
      train: {images: "train/*.png", labels: "train_labels/*_L.png"}
      val: {images: "val/*.png", labels: "val_labels/*_L.png"}   # patterns: clouds.data.datasets.patterns
      test: {list: test.txt}           # in the folder, see clouds.data.datasets.lists
    encoding: colors                   # of the label maps: train_ids (default), ids or colors
    channel: red                       # with ids, for label maps of several channels: the one with the ids
    ignore: [[0, 0, 0]]                # values of ignored pixels; 255 is always one for train_ids and ids
    rest: error                        # meaning of any other value: error (default) or ignore
    classes:                           # by train id; "cityscapes" for its 19 classes with their ids or colors
      - {name: "sky,clouds", color: [128, 128, 128]}                  # synonyms after commas; RGB for visualization
      - {name: building, color: [128, 0, 0], values: [[128, 0, 0], [64, 192, 0]]}   # default: the color

With `encoding: ids` every class has its `values: [7, 9]`. With `classes: cityscapes`, a mapping `values` beside it
gives the values of each class, `{road: [1, 24], ...}`. A split without `labels` can be predicted, not scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, CITYSCAPES_ID_TO_TRAIN_ID, IGNORE_LABEL
from clouds.data.datasets.patterns import pattern_fault, wildcards
from clouds.data.datasets.spec import DatasetSpec, name_fault
from clouds.data.encoding import LabelEncoding, format_value
from clouds.data.label_readers import CHANNELS, LabelKind, pack_colors
from clouds.errors import UserError, check_name
from clouds.utils.images import IMAGE_SUFFIXES
from clouds.utils.paths import is_path
from clouds.utils.resources import existing_file
from clouds.utils.values import is_integer
from clouds.utils.yaml_files import read_yaml

Values = list[int]

_KEYS = ("name", "folder", "splits", "encoding", "channel", "ignore", "rest", "classes", "values")
_KINDS: tuple[LabelKind, ...] = ("train_ids", "ids", "colors")
_ID_KINDS: tuple[LabelKind, ...] = ("ids", *CHANNELS.values())
_CITYSCAPES = "cityscapes"


def read_custom(file: Path) -> list[DatasetSpec]:
    """Read a YAML file and return one spec per split. A file of this package has its name in the repository.

    Raises:
        UserError: the file is missing, not YAML, or does not describe a data set.
    """
    return list(_read_splits(file).values())


def dataset_settings(file: Path) -> list[str]:
    """Return the config keys and values that the flag `--dataset FILE` stands for.

    The data set is trained on its split `train` and tested on `val`, or on `test` if there is no `val`. The keys of a
    missing split are left out.

    Returns:
        Keys and values in turn, as on the command line.

    Raises:
        UserError: see `read_custom`.
    """
    by_split = _read_splits(file)
    num_classes = len(next(iter(by_split.values())).classes)
    settings = ["DATASETS.CUSTOM", str((str(file),)), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(num_classes)]
    for key, splits in (("DATASETS.TRAIN", ("train",)), ("DATASETS.TEST", ("val", "test"))):
        names = [by_split[split].name for split in splits if split in by_split][:1]
        settings += [key, str(tuple(names))] if names else []
    return settings


def _read_splits(file: Path) -> dict[str, DatasetSpec]:
    path = existing_file(file, "The data set")
    return _Parser(path, read_yaml(path, "The data set")).specs()


class _Parser:
    """Checks the content of a YAML file and converts it; every error names the file."""

    def __init__(self, file: Path, content: Any) -> None:
        self.file = file
        self.content: dict[str, Any] = self._mapping(content, "the file", _KEYS)
        for key in ("name", "splits", "classes"):
            if key not in self.content:
                raise self._error(f"it has no {key}")

    def specs(self) -> dict[str, DatasetSpec]:
        """Return the data set of each split."""
        name = self._name(self.content["name"], "its name")
        folder = self.content.get("folder", name)
        if not isinstance(folder, str) or not folder or not is_path(folder) or {*"*{}\\"} & {*folder}:
            raise self._error(f"its folder is {folder!r:.100}, which must be a path without *, {{, }} and \\")
        classes, colors, encoding = self._classes()
        splits = self._mapping(self.content["splits"], "splits", None)
        if not splits:
            raise self._error("it has no splits")
        return {
            split: DatasetSpec(
                self._name(f"{name}_{self._name(split, 'the name of a split')}", "the name of a split with its own"),
                **self._files(folder.rstrip("/"), split, value),
                encoding=encoding,
                classes=classes,
                colors=colors,
                domain=name,
            )
            for split, value in splits.items()
        }

    def _files(self, folder: str, split: str, value: Any) -> dict[str, Any]:
        """Return the arguments of `DatasetSpec` that say where the files of a split are."""
        given = self._mapping(value, f"split {split}", ("images", "labels", "list"))
        if "list" in given:
            path = given["list"]
            if len(given) > 1:
                raise self._error(
                    f"split {split} has a list, which replaces images and labels; remove one or the other"
                )
            if not isinstance(path, str) or not path or not is_path(path):
                raise self._error(f"split {split} has the list {path!r:.100}, which must be a path in its folder")
            endings = ",".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
            return {"images": (f"{folder}/**/*.{{{endings}}}",), "labels": (), "list_path": f"{folder}/{path}"}
        if "images" not in given:
            raise self._error(f"split {split} has no images")
        images = self._pattern(folder, split, given["images"])
        if "labels" not in given:
            return {"images": (images,), "labels": ()}
        labels = self._pattern(folder, split, given["labels"])
        if wildcards(images) != wildcards(labels):
            raise self._error(
                f"split {split} has the patterns {given['images']!r} and {given['labels']!r}; what * and ** match makes"
                " the pairs, so both need the same number of * and of **, in the same order"
            )
        return {"images": (images,), "labels": (labels,)}

    def _pattern(self, folder: str, split: str, pattern: Any) -> str:
        fault = pattern_fault(pattern) if isinstance(pattern, str) else "is no text"
        if fault:
            raise self._error(f"split {split} has the pattern {pattern!r}, which {fault}; an example is folder/*.png")
        return f"{folder}/{pattern}"

    def _name(self, name: Any, what: str) -> str:
        fault = name_fault(name) if isinstance(name, str) else f"is {name!r}, which must be a text"
        if fault:
            raise self._error(f"{what} {fault}")
        return str(name)

    def _kind(self) -> LabelKind:
        kind, channel = self.content.get("encoding", "train_ids"), self.content.get("channel")
        if kind not in _KINDS:
            raise self._error(f"its encoding is {kind!r}, which must be one of {', '.join(_KINDS)}")
        if channel is None:
            return kind
        if kind != "ids":
            raise self._error("it has a channel, which only encoding: ids needs")
        if not isinstance(channel, str) or channel not in CHANNELS:
            raise self._error(f"its channel is {channel!r}, which must be one of {', '.join(CHANNELS)}")
        return CHANNELS[channel]

    def _rows(self, kind: LabelKind) -> Any:
        """Return the list of classes, with those of Cityscapes written out."""
        rows, given = self.content["classes"], self.content.get("values")
        if rows != _CITYSCAPES:
            if given is not None:
                raise self._error("its values belong to its classes, unless these are the word cityscapes")
            return rows
        names = [name.split(",")[0] for name in CITYSCAPES_CLASSES]
        values: dict[str, Any] = {}
        if given is not None:
            values = {name: [] for name in names} | self._mapping(given, "values", names)
        elif kind in _ID_KINDS:
            values = {names[train_id]: [label] for label, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items()}
        return [
            {"name": long, "color": list(color)} | ({"values": values[name]} if name in values else {})
            for name, long, color in zip(names, CITYSCAPES_CLASSES, CITYSCAPES_COLORS, strict=True)
        ]

    def _classes(self) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...], LabelEncoding | None]:
        kind = self._kind()
        rows = self._rows(kind)
        if not isinstance(rows, list) or not 1 <= len(rows) < IGNORE_LABEL:
            raise self._error(f"its classes must be a list of 1 to {IGNORE_LABEL - 1} of them, or the word cityscapes")
        names, colors, train_ids = [], [], dict[int, int]()
        for train_id, row in enumerate(rows):
            row = self._mapping(row, f"class {train_id}", ("name", "color", "values"))
            if not isinstance(row.get("name"), str) or not row["name"].split(",")[0].strip():
                raise self._error(f"class {train_id} has no name")
            names.append(row["name"])
            colors.append(self._color(row.get("color"), f"class {row['name']}"))
            for value in self._values(kind, row, names[-1]):
                if value in train_ids:
                    raise self._error(
                        f"{names[train_ids[value]]} and {row['name']} have the same value {format_value(kind, value)}"
                    )
                train_ids[value] = train_id
        short = [name.split(",")[0].strip() for name in names]
        if len(set(short)) < len(short):
            raise self._error("two of its classes have the same name")
        return tuple(names), tuple(colors), self._encoding(kind, train_ids, len(names))

    def _values(self, kind: LabelKind, row: dict[str, Any], name: str) -> Values:
        """Return the values of a class in the label maps; for colors, 65536 R + 256 G + B."""
        if kind == "train_ids":
            if "values" in row:
                raise self._error(f"class {name} has values, which train_ids do not need: set encoding")
            return []
        if kind in _ID_KINDS and "values" not in row:
            raise self._error(f"class {name} has no values (the ids it has in the label files)")
        return self._value_list(kind, row.get("values", [row.get("color")]), f"class {name}")

    def _encoding(self, kind: LabelKind, train_ids: dict[int, int], num_classes: int) -> LabelEncoding | None:
        rest = self.content.get("rest", "error")
        if rest not in ("error", "ignore"):
            raise self._error(f"its rest is {rest!r}, which must be error or ignore")
        ignored = self._value_list(kind, self.content.get("ignore", []), "ignore")
        if kind == "train_ids":
            if not ignored and rest == "error":
                return None
            train_ids = {train_id: train_id for train_id in range(num_classes)}
        if both := sorted(set(ignored) & set(train_ids)):
            raise self._error(f"the value {format_value(kind, both[0])} is listed under ignore and is a class")
        train_ids = train_ids | dict.fromkeys(ignored, IGNORE_LABEL)
        if kind != "colors":
            train_ids.setdefault(IGNORE_LABEL, IGNORE_LABEL)
        return LabelEncoding(kind, tuple(sorted(train_ids.items())), IGNORE_LABEL if rest == "ignore" else None)

    def _value_list(self, kind: LabelKind, values: Any, where: str) -> Values:
        if not isinstance(values, list):
            raise self._error(f"{where} has {values!r} where a list of values is expected")
        if kind == "colors":
            return [int(pack_colors(np.array(self._color(value, where)))) for value in values]
        for value in values:
            if not is_integer(value, high=65535):
                raise self._error(f"{where} has the id {value!r}, which must be a whole number from 0 to 65535")
        return values

    def _color(self, value: Any, where: str) -> tuple[int, int, int]:
        if not (isinstance(value, Sequence) and len(value) == 3 and all(is_integer(v, high=255) for v in value)):
            raise self._error(f"{where} has the color {value!r}, which must be [red, green, blue], each 0 to 255")
        red, green, blue = value
        return red, green, blue

    def _mapping(self, value: Any, where: str, known: Sequence[str] | None) -> dict[str, Any]:
        """Return `value` if it is a mapping with no other keys than `known` (None: any)."""
        if not isinstance(value, dict):
            raise self._error(f"{where} must be `key: value` pairs")
        for key in value:
            if known is not None:
                check_name(f"The data set {self.file} ({where})", str(key), known)
        return value

    def _error(self, what: str) -> UserError:
        return UserError(f"The data set {self.file}: {what}; see datasets/README.md for an example.")
