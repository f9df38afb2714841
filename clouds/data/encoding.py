"""The meaning of the values in label files, and the conversion of a file to train ids."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import IGNORE_LABEL, short_name
from clouds.data.label_readers import READERS, LabelKind, Values, read_ids, unpack_color
from clouds.errors import UserError

TrainIds = npt.NDArray[np.uint8]

_UNKNOWN = 254  # stands for a value without a meaning; train ids are 0 to 253 and 255
_BLOCK = 1 << 16  # pixels
_NUM_IDS = 1 << 16
_NUM_COLORS = 1 << 24


@dataclass(frozen=True)
class LabelEncoding:
    """The meaning of the values in the label files of a data set.

    Raises:
        ValueError: a value or a train id is out of range.
    """

    kind: LabelKind
    """Kind of file, a key of `READERS`."""
    train_ids: tuple[tuple[int, int], ...]
    """Pairs of (value, train id). The train id is 0 to 253, or 255 for an ignored value. For the value of a color,
    see `clouds.data.label_readers.pack_colors`."""
    default: int | None = None
    """Train id of every other value; None if another value is an error."""
    remedy: str = "give them to a class, list them under ignore, or set rest: ignore"
    """Advice about values without a meaning, for error messages."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        num_values = _num_values(self.kind)
        if any(not 0 <= value < num_values for value, _ in self.train_ids):
            raise ValueError(f"train_ids has a value outside 0 to {num_values - 1}")
        for train_id in (*(train_id for _, train_id in self.train_ids), self.default):
            if train_id is not None and (not 0 <= train_id <= IGNORE_LABEL or train_id == _UNKNOWN):
                raise ValueError(f"train_ids or default has the train id {train_id}; it must be 0 to 253, or 255")

    @classmethod
    def of_ids(cls, train_ids: Mapping[int, int], ids: range, kind: LabelKind = "ids") -> "LabelEncoding":
        """Encode a data set with the ids `ids`, of which those that are not in `train_ids` are ignored.

        Args:
            train_ids: train id by id.
            ids: all ids of the data set; any other value is an error.
            kind: kind of file.
        """
        pairs = tuple((label_id, train_ids.get(label_id, IGNORE_LABEL)) for label_id in ids)
        remedy = f"known are {ids[0]} to {ids[-1]}; see that these are the original label maps"
        return cls(kind, pairs, remedy=remedy)

    def read(self, path: str) -> TrainIds:
        """Read a label file.

        Returns:
            (H, W) uint8 train ids, 255 for ignored pixels.

        Raises:
            UserError: the file is missing, truncated, corrupt or of another kind, or has a value without a meaning.
        """
        values = READERS[self.kind](path)
        train_ids = self._look_up(values)
        if _contains(train_ids, _UNKNOWN):
            raise self._unknown_values(path, values[train_ids == _UNKNOWN])
        return train_ids

    def _look_up(self, values: Values) -> TrainIds:
        table = _table(self)
        if values.dtype != np.uint8 and values.size and 0 <= values.min() and values.max() < 256:
            values = values.astype(np.uint8)
        if values.dtype == np.uint8:
            return np.asarray(cv2.LUT(values, table[:256]), np.uint8)  # a tenth of the time of fancy indexing
        inside = (0 <= values) & (values < len(table))
        return np.where(inside, table[np.where(inside, values, 0)], np.uint8(_UNKNOWN))

    def _unknown_values(self, path: str, values: Values) -> UserError:
        found, counts = np.unique(values, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:3]
        listed = ", ".join(f"{format_value(self.kind, int(found[i]))} on {counts[i]} pixels" for i in most)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        what = "color" if self.kind == "colors" else "id"
        return UserError(
            f"{path} has {len(found)} label {what}(s) that its data set does not list ({listed}{more}): {self.remedy}."
        )


LabelReader = Callable[[str], npt.NDArray[np.integer]]
"""Function of the path of a label file that returns (H, W) train ids, 255 for ignored pixels. It is called in worker
processes, so it must be defined at the top of a module."""


def read_train_ids(path: str, num_classes: int, encoding: LabelEncoding | LabelReader | None = None) -> TrainIds:
    """Read the train ids of a label map.

    Args:
        path: path of the label map.
        num_classes: number of classes without void.
        encoding: meaning of the values, or a function that reads the file; None for train ids in an image of one
            channel (gray, palette, or 16 bits).

    Returns:
        (H, W) uint8 array of 0 to `num_classes` - 1, and 255 for ignored pixels.

    Raises:
        UserError: the file is missing, truncated, corrupt or of another kind, or has a value that is neither a class
            nor ignored.
    """
    if encoding is None:
        label = read_ids(path)
        if label.dtype == np.uint8 and num_classes <= IGNORE_LABEL:
            # C..254 in one comparison of bytes, which wrap around; it takes a tenth of the time of the three below.
            invalid = label - np.uint8(num_classes) < np.uint8(IGNORE_LABEL - num_classes)
        else:
            invalid = (label != IGNORE_LABEL) & ((label < 0) | (label >= num_classes))
        if invalid.any():
            ids, counts = np.unique(label[invalid], return_counts=True)
            others = f" and {len(ids) - 1} more such ids" if len(ids) > 1 else ""
            raise UserError(
                f"{path} has the label id {ids[0]} on {counts[0]} pixels{others}; ids must be 0..{num_classes - 1} or "
                f"{IGNORE_LABEL} (ignore): convert the labels to train ids (see datasets/README.md)."
            )
        return label.astype(np.uint8, copy=False)
    train_ids = encoding.read(path) if isinstance(encoding, LabelEncoding) else _read_with(encoding, path)
    if (beyond := train_ids[(train_ids >= num_classes) & (train_ids != IGNORE_LABEL)]).size:
        raise UserError(
            f"{path} has the class {beyond[0]}, but the network has {num_classes} classes: set its number of "
            "classes to that of the data set."
        )
    return train_ids


def find_missing_labels(
    classes: Sequence[str], pixels: npt.NDArray[np.int64], ignored: int, *, colors: bool = False
) -> str:
    """Find label maps in which nothing is labelled, or in which 255 hides one of two classes.

    Args:
        classes: C class names by train id.
        pixels: (C,) number of pixels of each class.
        ignored: number of ignored pixels.
        colors: whether the values in the label maps are colors.

    Returns:
        The middle of a sentence about the label maps of a data set; empty if nothing is missing.
    """
    hint = f"{IGNORE_LABEL} means ignored: if it is a class, set `encoding: ids` and `values: [{IGNORE_LABEL}]` for it"
    present = np.flatnonzero(pixels)
    if ignored and not present.size:
        fix = "list the colors of its classes in their `values`, and not under `ignore`" if colors else hint
        return f"no pixel of its label maps has a class, all are ignored ({fix})"
    if colors:  # a color that is ignored is listed as such
        return ""
    if ignored and len(classes) == 2 and len(present) == 1:
        absent = short_name(classes[1 - present[0]])
        return f"no pixel of its label maps has the class {absent}, but some are ignored ({hint})"
    return ""


def format_value(kind: LabelKind, value: int) -> str:
    """Format a value of a label file as a person writes it: "7", or "(128, 64, 128)" for a color."""
    return str(unpack_color(value)) if kind == "colors" else str(value)


def check_same_size(image: Image.Image, image_path: str, label: TrainIds, label_path: str) -> None:
    """Check that an image and its label map have the same size.

    Raises:
        UserError: the sizes differ.
    """
    height, width = label.shape
    if image.size != (width, height):
        raise UserError(
            f"{image_path} is {image.height}x{image.width} (height x width), but its label map {label_path} is "
            f"{height}x{width}: remove the pair or replace one of them."
        )


def _read_with(reader: LabelReader, path: str) -> TrainIds:
    label = reader(path)
    if not isinstance(label, np.ndarray) or label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        found = f"{label.dtype} {label.shape}" if isinstance(label, np.ndarray) else type(label).__name__
        raise UserError(f"The label_encoding of {path} returned {found}, but it must return (height, width) integers.")
    if label.size and not 0 <= label.min() <= label.max() <= IGNORE_LABEL:
        raise UserError(
            f"The label_encoding of {path} returned the values {label.min()} to {label.max()}, not 0 to 255."
        )
    return label.astype(np.uint8, copy=False)


def _contains(labels: TrainIds, label: int) -> bool:
    # In blocks: for a whole label map, allocating the mask takes several times as long as the comparison.
    flat = labels.reshape(-1)
    return any((flat[start : start + _BLOCK] == label).any() for start in range(0, flat.size, _BLOCK))


def _num_values(kind: LabelKind) -> int:
    return _NUM_COLORS if kind == "colors" else _NUM_IDS


@functools.cache
def _table(encoding: LabelEncoding) -> TrainIds:
    """Return the train id of each value: (65536,) for ids, (16777216,) for colors."""
    table = np.full(_num_values(encoding.kind), _UNKNOWN if encoding.default is None else encoding.default, np.uint8)
    for value, train_id in encoding.train_ids:
        table[value] = train_id
    return table
