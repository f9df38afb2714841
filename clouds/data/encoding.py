"""Label files whose values are not train ids: what each value means, and how they are read."""

import functools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from clouds.data.files import read_colors, read_ids, read_label
from clouds.data.labels import IGNORE_LABEL
from clouds.data.pairing import Record
from clouds.errors import UserError

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
        values = read_ids(path) if self.kind != "colors" else packed(read_colors(path))
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
        listed = ", ".join(f"{named(self.kind, int(found[i]))} on {counts[i]} pixels" for i in most)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        what = "colour" if self.kind == "colors" else "id"
        return UserError(
            f"{path} has {len(found)} label {what}(s) that its data set does not list ({listed}{more}): give them to a "
            "class, list them under ignore, or set rest: ignore."
        )


def read_train_ids(record: Record, num_classes: int) -> npt.NDArray[np.uint8]:
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
            f"{record['sem_seg_file_name']} has the class {unknown[0]}, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{num_classes}: set it to the number of classes of the data set."
        )
    return label


def named(kind: Kind, value: int) -> str:
    """A value as a person writes it."""
    return str((value >> 16, value >> 8 & 255, value & 255)) if kind == "colors" else str(value)


def packed(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
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
