"""Custom data sets: a YAML file describes where the files lie and what the values in the label maps mean.

    name: camvid
    folder: camvid                     # under the data root, or absolute; default: the name
    splits:                            # each is a data set: camvid_train and camvid_val
      train: {images: "train/*.png", labels: "train_labels/*_L.png"}
      val: {images: "val/*.png", labels: "val_labels/*_L.png"}
    encoding: colors                   # of the label maps: train_ids (default), ids or colors
    ignore: [[0, 0, 0]]                # values of ignored pixels; 255 is always one for train_ids and ids
    rest: error                        # meaning of any other value: error (default) or ignore
    classes:                           # by train id; "cityscapes" for its 19 classes with their ids
      - {name: "sky,clouds", color: [128, 128, 128]}                  # synonyms after commas; RGB for visualization
      - {name: building, color: [128, 0, 0], values: [[128, 0, 0], [64, 192, 0]]}   # default: the color

With `encoding: ids` every class has its `values: [7, 9]`. A split without `labels` can be predicted, not scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, CITYSCAPES_ID_TO_TRAIN_ID, IGNORE_LABEL
from clouds.data.datasets.spec import DatasetSpec
from clouds.data.encoding import LabelEncoding, format_value
from clouds.data.label_readers import LabelKind, pack_colors
from clouds.errors import UserError, check_name

Values = list[int]

_KEYS = ("name", "folder", "splits", "encoding", "ignore", "rest", "classes")
_KINDS: tuple[LabelKind, ...] = ("train_ids", "ids", "colors")
_CITYSCAPES = "cityscapes"


def read_custom(file: Path) -> list[DatasetSpec]:
    """Read a YAML file and return one spec per split.

    Raises:
        UserError: the file is missing, not YAML, or does not describe a data set.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The data set {file} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The data set {file} is not YAML: {' '.join(str(error).split())}") from error
    return _Parser(file, content).specs()


def dataset_settings(file: Path) -> list[str]:
    """Return the config keys and values that the flag `--dataset FILE` stands for.

    The data set is trained on its split `train` and tested on `val`, or on `test` if there is no `val`. The keys of a
    missing split are left out.

    Returns:
        Keys and values in turn, as on the command line.

    Raises:
        UserError: see `read_custom`.
    """
    specs = read_custom(file)
    by_split = {spec.name.rpartition("_")[2]: spec for spec in specs}
    settings = ["DATASETS.CUSTOM", str((str(file),)), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(len(specs[0].classes))]
    for key, splits in (("DATASETS.TRAIN", ("train",)), ("DATASETS.TEST", ("val", "test"))):
        names = [by_split[split].name for split in splits if split in by_split][:1]
        settings += [key, str(tuple(names))] if names else []
    return settings


class _Parser:
    """Checks the content of a YAML file and converts it; every error names the file."""

    def __init__(self, file: Path, content: Any) -> None:
        self.file = file
        self.content: dict[str, Any] = self._mapping(content, "the file", _KEYS)
        for key in ("name", "splits", "classes"):
            if key not in self.content:
                raise self._error(f"it has no {key}")

    def specs(self) -> list[DatasetSpec]:
        name = self.content["name"]
        if not isinstance(name, str) or not name.isidentifier():
            raise self._error(f"its name is {name!r}, which must be letters, digits and _")
        folder = str(self.content.get("folder", name)).rstrip("/")
        classes, colors, encoding = self._classes()
        specs = []
        splits = self._mapping(self.content["splits"], "splits", None)
        if not splits:
            raise self._error("it has no splits")
        for split, value in splits.items():
            patterns = self._mapping(value, f"split {split}", ("images", "labels"))
            if "images" not in patterns:
                raise self._error(f"split {split} has no images")
            specs.append(
                DatasetSpec(
                    f"{name}_{split}",
                    (self._pattern(folder, split, patterns["images"]),),
                    (self._pattern(folder, split, patterns["labels"]),) if "labels" in patterns else (),
                    encoding=encoding,
                    classes=classes,
                    colors=colors,
                )
            )
        return specs

    def _pattern(self, folder: str, split: str, pattern: Any) -> str:
        text = str(pattern)
        if text.count("*") != 1 or "/" in text.partition("*")[2]:
            raise self._error(
                f"split {split} has the pattern {text!r}; a pattern is folder/*.png, with one * where file names differ"
            )
        return f"{folder}/{text}"

    def _classes(self) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...], LabelEncoding | None]:
        kind: LabelKind = self.content.get("encoding", "train_ids")
        if kind not in _KINDS:
            raise self._error(f"its encoding is {kind!r}, which must be one of {', '.join(_KINDS)}")
        rows = self.content["classes"]
        if rows == _CITYSCAPES:
            ids: dict[int, Values] = {train_id: [label] for label, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items()}
            rows = [
                {"name": name, "color": list(color)} | ({"values": ids[c]} if kind == "ids" else {})
                for c, (name, color) in enumerate(zip(CITYSCAPES_CLASSES, CITYSCAPES_COLORS, strict=True))
            ]
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
        if kind == "ids" and "values" not in row:
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
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 16:
                raise self._error(f"{where} has the id {value!r}, which must be a whole number from 0 to 65535")
        return values

    def _color(self, value: Any, where: str) -> tuple[int, int, int]:
        valid = isinstance(value, Sequence) and len(value) == 3 and all(isinstance(v, int) for v in value)
        if not valid or not all(0 <= v <= 255 for v in value):
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
