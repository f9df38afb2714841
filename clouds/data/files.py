"""Reading pictures and label maps, with one clear sentence when a file is not what it should be."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clouds.data.labels import IGNORE_LABEL
from clouds.errors import UserError

PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
"""The last chunk of every PNG."""

# What Pillow raises on damaged files. Pillow reads them, not OpenCV, which is as fast but hands back a truncated
# picture, grey from some row on, without a word.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: str) -> Image.Image:
    """The picture in `path` as 8-bit RGB, upright (EXIF orientation applied), fully decoded.

    Raises:
        UserError: no such file, or it is no picture, truncated or corrupt.
    """
    with _readable(path, "image"), Image.open(path) as file:
        file.load()
        upright = ImageOps.exif_transpose(file) if file.getexif() else file
        if upright.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return upright if upright.mode == "RGB" else upright.convert("RGB")


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
    with _readable(path, "label map"), Image.open(path) as file:
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
    with _readable(path, "label map"), Image.open(path) as file:
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
    with _readable(path, "label map"):
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


def check_end(path: str) -> None:
    """Raises UserError where a PNG stops before its end: Pillow reads one that lacks its last bytes without a word."""
    with _readable(path, "picture"), Path(path).open("rb") as stream:
        is_png = stream.read(4) == b"\x89PNG"
        stream.seek(-min(stream.seek(0, io.SEEK_END), 1024), io.SEEK_END)  # some programs add a few bytes
        if is_png and PNG_END not in stream.read():
            raise ValueError("its end is missing")


def check_same_size(image: Image.Image, image_path: str, label: npt.NDArray[np.uint8], label_path: str) -> None:
    """Raises UserError where picture and label map differ in size."""
    height, width = label.shape
    if image.size != (width, height):
        raise UserError(
            f"{image_path} is {image.height}x{image.width} (height x width), but its label map {label_path} is "
            f"{height}x{width}: remove the pair or replace one of them."
        )


@contextlib.contextmanager
def _readable(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"The {what} {path} does not exist: it was moved or removed after the data set was listed."
        ) from None
    except PermissionError:
        raise UserError(f"The {what} {path} may not be read: see the permissions of the file and its folder.") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"The {what} {path} cannot be read ({reason}): copy or download it again.") from error
