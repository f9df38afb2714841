"""Results of a prediction: label map, scores and what follows from them.

Letters: H x W image, K classes.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import short_name
from clouds.errors import UserError
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import encoded
from clouds.utils.paths import user_path
from clouds.visualization.palette import Color, overlay


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """Label map of an image, with the names of its classes.

    Scores take K times the memory of an image, so that they are there only after `predict(..., scores=True)`.

    Attributes:
        labels: (H, W) uint8, positions in `classes`.
        classes: names of the K classes, synonyms separated by commas.
        colors: RGB of each class, 0..255.
        image: (H, W, 3) uint8 RGB, the image.
    """

    labels: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    image: npt.NDArray[np.uint8]
    shares: npt.NDArray[np.float32] | None = field(default=None, kw_only=True)
    """The scores; None if they were not asked for."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(K, H, W) float32, share of each class in the scores of all classes; sums to 1 at each pixel.

        These are not calibrated: of the pixels with a share of 0.8, more or fewer than 80 % may have the right label.

        Raises:
            UserError: the prediction was made without scores.
        """
        if self.shares is None:
            raise UserError(
                "This result holds no scores, which take much memory: predict with scores=True to have scores, "
                "confidence and entropy."
            )
        return self.shares

    @cached_property
    def confidence(self) -> npt.NDArray[np.float32]:
        """(H, W) float32 in 1/K..1, the highest share of a class at each pixel. See `scores`."""
        return self.scores.max(axis=0)

    @cached_property
    def entropy(self) -> npt.NDArray[np.float32]:
        """(H, W) float32, entropy of the shares divided by log K: 0 = a single class has all, 1 = all have the same.

        For a single class it is 0. See `scores`.
        """
        scores = self.scores
        logarithms = np.log(scores, where=scores > 0, out=np.zeros_like(scores))
        entropy = -np.einsum("khw,khw->hw", scores, logarithms) / np.float32(np.log(max(len(scores), 2)))
        return entropy.clip(0, 1)  # rounding

    @property
    def area(self) -> dict[str, float]:
        """Share of the pixels of each class, by its first name; the shares sum to 1."""
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.classes)) / self.labels.size
        return {short_name(name): float(share) for name, share in zip(self.classes, pixels, strict=False)}

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the image with the colors of its classes.

        Args:
            opacity: weight of the colors, 0..1.

        Raises:
            UserError: `opacity` is out of range.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity is {opacity}: give a number from 0 (the image) to 1 (the colors).")
        return Image.fromarray(overlay(self.image, self.labels, self.colors, opacity))

    def save(self, path: str | Path) -> None:
        """Write the label map as a PNG of one channel, in which each pixel is a position in `classes`.

        The file is that of `tools/predict.py`. For an image to look at, save the result of `overlay`.

        Args:
            path: path of the file, which ends in ``.png``; its folder is created.

        Raises:
            UserError: the name does not end in ``.png``.
            WriteError: the file cannot be written.
        """
        path = user_path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"A label map is saved as PNG, because others change its values: {path} must end in .png.")
        make_folder(path.parent)
        write_atomically(path, encoded(Image.fromarray(self.labels), "PNG"))

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shown = [f"{name} {share:.1%}" for name, share in Counter(self.area).most_common(5) if share > 0]
        more = ", ..." if sum(share > 0 for share in self.area.values()) > len(shown) else ""
        scores = "" if self.shares is None else ", with scores"
        return f"Segmentation({height} x {width}, {len(self.classes)} classes: {', '.join(shown)}{more}{scores})"
