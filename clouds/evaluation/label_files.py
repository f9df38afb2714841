"""Predictions as PNG files, to look at or to train on."""

import hashlib
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import IGNORE_LABEL
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import encoded

_ENDINGS = ("_labelTrainIds.png", "_color.png")
_MAX_PART = 200  # bytes; file systems allow 255, and the endings of label files and temporary files come on top


class LabelWriter:
    """Writes `<folder>/<image id>_labelTrainIds.png` (one channel of train ids) and `<image id>_color.png`.

    The names are those of Cityscapes, so the label maps can be paired with their images as a data set. A slash in an
    image id creates a sub-folder. Files are written atomically and replace existing ones.
    """

    def __init__(self, folder: Path, colors: Sequence[Sequence[int]]) -> None:
        """
        Args:
            folder: folder for one data set, created with the first file.
            colors: RGB, 0..255, by train id.
        """
        self.folder = folder
        palette = np.zeros((IGNORE_LABEL + 1, 3), dtype=np.uint8)
        palette[: len(colors)] = colors
        self.palette = palette.tobytes()
        self._made: set[Path] = set()

    def write(self, image_id: str, labels: npt.NDArray[np.uint8]) -> None:
        """Write both files of an image.

        Args:
            image_id: id of the image in its data set.
            labels: (H, W) uint8 train ids.
        """
        target = self.folder / file_stem(image_id)
        if target.parent not in self._made:  # only once: a folder that is removed later is an error
            make_folder(target.parent)
            self._made.add(target.parent)
        image = Image.fromarray(labels)
        write_atomically(Path(f"{target}_labelTrainIds.png"), encoded(image, "PNG"))
        image.putpalette(self.palette)  # the same bytes, displayed in the colors of the classes
        write_atomically(Path(f"{target}_color.png"), encoded(image, "PNG"))


def file_stem(image_id: str) -> str:
    """Return a relative path that is unique to an image id and stays inside its folder.

    Ordinary ids remain as they are. Characters that file systems do not allow are percent-encoded, and a name that is
    too long for a file system ends in its hash.
    """
    *folders, name = map(_quoted, image_id.split("/"))
    # A folder x_color.png would take the place of a file of the image x.
    folders = [folder.replace(".png", "%2Epng") if folder.endswith(_ENDINGS) else folder for folder in folders]
    return "/".join([*folders, name])


def _quoted(part: str) -> str:
    if not part.strip("."):  # "", "." and ".." are folders
        return part.replace(".", "%2E") or "%"
    quoted = urllib.parse.quote(part, safe=" !#$&'()+,;=@[]^{}", errors="surrogatepass")
    if len(quoted) <= _MAX_PART:
        return quoted
    # No quoted name has a % before a ~, so this is the name of no other part.
    return f"{quoted[: _MAX_PART - 34]}%~{hashlib.sha256(quoted.encode()).hexdigest()[:32]}"
