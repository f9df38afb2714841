"""Label files whose values are not train ids: what each value means, and how they are read."""

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import IGNORE_LABEL
from clouds.errors import UserError
from clouds.utils.images import explain_read_errors

Kind = Literal["train_ids", "ids", "colors"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_UNKNOWN = -1
_IDS = 1 << 16
_COLORS = 1 << 24


@dataclass(frozen=True)
class LabelEncoding:
    """What the values in a data set's label files mean."""

    kind: Kind
    """Whether a value is an id (of one channel) or a colour (of three)."""
    meaning: tuple[tuple[int, int], ...]
    """(value, train id or 255) pairs; a colour's value is 65536 R + 256 G + B."""
    rest: int | None = None
    """Train id (or 255) of every other value; None: another value is a fault of the file."""

    def read(self, path: str) -> npt.NDArray[np.uint8]:
        """The train ids in a label file: (H, W) uint8, classes and 255.

        Raises:
            UserError: no such file, truncated or corrupt, not of this kind, or a value without a meaning.
        """
        values = read_ids(path) if self.kind != "colors" else pack_colors(read_colors(path))
        table = _table(self)
        outside = (values < 0) | (values >= len(table)) if values.dtype.kind == "i" else values >= len(table)
        if outside.any():
            raise self._unknown(path, values[outside])
        train_ids = table[values]
        if self.rest is None and (train_ids == _UNKNOWN).any():
            raise self._unknown(path, values[train_ids == _UNKNOWN])
        return train_ids.astype(np.uint8)

    def _unknown(self, path: str, values: npt.NDArray[np.integer]) -> UserError:
        found, counts = np.unique(values, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:3]
        listed = ", ".join(f"{format_value(self.kind, int(found[i]))} on {counts[i]} pixels" for i in most)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        what = "colour" if self.kind == "colors" else "id"
        return UserError(
            f"{path} has {len(found)} label {what}(s) that its data set does not list ({listed}{more}): give them to a "
            "class, list them under ignore, or set rest: ignore."
        )


def read_train_ids(record: dict[str, Any], num_classes: int) -> npt.NDArray[np.uint8]:
    """The label map of a record, decoded where it has a `label_encoding`: (H, W) uint8, 0..C-1 or 255.

    Raises:
        UserError: see `read_label` and `LabelEncoding.read`; or the data set has more classes than the network.
    """
    encoding: LabelEncoding | None = record.get("label_encoding")
    if encoding is None:
        return read_label(record["sem_seg_file_name"], num_classes)
    label = encoding.read(record["sem_seg_file_name"])
    if (unknown := label[(label >= num_classes) & (label != IGNORE_LABEL)]).size:
        raise UserError(
            f"{record['sem_seg_file_name']} has the class {unknown[0]}, but the network has {num_classes} classes: set "
            "its number of classes to that of the data set."
        )
    return label


def format_value(kind: Kind, value: int) -> str:
    """A value as a person writes it."""
    return str((value >> 16, value >> 8 & 255, value & 255)) if kind == "colors" else str(value)


def pack_colors(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(H, W, 3) RGB to (H, W) values 65536 R + 256 G + B."""
    wide = colors.astype(np.int32)
    value: npt.NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return value


@functools.cache
def _table(encoding: LabelEncoding) -> npt.NDArray[np.int16]:
    """Train id by value."""
    size = _COLORS if encoding.kind == "colors" else _IDS
    table = np.full(size, _UNKNOWN if encoding.rest is None else encoding.rest, np.int16)
    for value, train_id in encoding.meaning:
        table[value] = train_id
    if encoding.kind != "colors" and table[IGNORE_LABEL] == _UNKNOWN:
        table[IGNORE_LABEL] = IGNORE_LABEL  # everybody's word for "does not count"
    return table


def read_label(path: str, num_classes: int) -> npt.NDArray[np.uint8]:
    """The train ids in a one-channel picture (gray, palette index, or 16 bit): (H, W) uint8, 0..C-1 or 255.

    Raises:
        UserError: no such file, truncated or corrupt, more than one channel, or an id that is neither class nor ignore.
    """
    label = read_ids(path)
    if label.dtype == np.uint8 and num_classes <= IGNORE_LABEL:
        # C..254 in one comparison of bytes, which wrap around; it takes a tenth of the time of the three below.
        strange = label - np.uint8(num_classes) < np.uint8(IGNORE_LABEL - num_classes)
    else:
        strange = (label != IGNORE_LABEL) & ((label < 0) | (label >= num_classes))
    if strange.any():
        ids, counts = np.unique(label[strange], return_counts=True)
        others = f" and {len(ids) - 1} more such ids" if len(ids) > 1 else ""
        raise UserError(
            f"{path} has the label id {ids[0]} on {counts[0]} pixels{others}; ids must be 0..{num_classes - 1} or "
            f"{IGNORE_LABEL} (ignore): convert the labels to train ids (see datasets/README.md)."
        )
    return label.astype(np.uint8, copy=False)


def read_ids(path: str) -> npt.NDArray[np.integer]:
    """The ids in a one-channel picture (gray, palette index, or 16 bit), whatever they mean: (H, W).

    Raises:
        UserError: no such file, truncated or corrupt, or more than one channel.
    """
    with explain_read_errors(path, "label map"), Image.open(path) as file:
        mode, label = file.mode, np.asarray(file)
    if label.ndim != 2:
        raise UserError(
            f"{path} is a {mode} picture, not a label map: it must have one channel of ids; "
            "if it is the colour version, use the one with ids (see datasets/README.md)."
        )
    return label


def read_colors(path: str) -> npt.NDArray[np.uint8]:
    """The colours in a label map that tells classes by them (RGB, RGBA or palette): (H, W, 3) uint8.

    Raises:
        UserError: no such file, truncated or corrupt, or a picture of one channel.
    """
    with explain_read_errors(path, "label map"), Image.open(path) as file:
        mode = file.mode
        label = np.asarray(file.convert("RGB"))
    if mode not in ("RGB", "RGBA", "P"):
        raise UserError(
            f"{path} is a {mode} picture, but the labels of its data set are told by colours: if it is the version "
            "with ids, say `encoding: ids` or `train_ids`, else take the coloured one."
        )
    return label


def read_red_ids(path: str) -> npt.NDArray[np.integer]:
    """The ids in the red channel of a 16-bit RGB PNG, which is how SYNTHIA keeps them: (H, W) uint16.

    Raises:
        UserError: no such file, truncated or corrupt, or another kind of picture.
    """
    with explain_read_errors(path, "label map"):
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as file:
            file.verify()  # OpenCV, which reads 16-bit colours where Pillow does not, overlooks damage
        label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 3 or label.dtype != np.uint16:
        raise UserError(
            f"{path} is no 16-bit RGB picture, as SYNTHIA's label maps are: take those of GT/LABELS from the "
            "download of SYNTHIA-RAND-CITYSCAPES."
        )
    # OpenCV has blue first. A map of its own: what is done to it takes a third of the time.
    red: npt.NDArray[np.integer] = np.asarray(cv2.extractChannel(label, label.shape[2] - 1), np.uint16)
    return red


def check_same_size(image: Image.Image, image_path: str, label: npt.NDArray[np.uint8], label_path: str) -> None:
    """Raises UserError where picture and label map differ in size."""
    height, width = label.shape
    if image.size != (width, height):
        raise UserError(
            f"{image_path} is {image.height}x{image.width} (height x width), but its label map {label_path} is "
            f"{height}x{width}: remove the pair or replace one of them."
        )
