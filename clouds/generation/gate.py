"""Quality gate for generated images: rejects blank images, near-duplicates and images that do not fit their prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.generation.settings import GateSettings

RGB = npt.NDArray[np.uint8]
"""Image, (H, W, 3) uint8 RGB."""

Similarity = Callable[[Sequence[RGB], Sequence[str]], Sequence[float]]
"""Images and their prompts -> similarity of each pair, -1..1."""


@dataclass(frozen=True)
class Verdict:
    """Result of the gate for one image.

    Attributes:
        reason: reason for the rejection; None if the image is accepted.
        similarity: similarity to the prompt, -1..1; None if it was not computed.
        dhash: `difference_hash` of the image.
    """

    reason: str | None
    similarity: float | None
    dhash: str


class Gate:
    """Accepts or rejects each image from the image and its prompt alone.

    The verdict does not depend on other images, so the result is independent of the order and division of the work.
    """

    def __init__(self, settings: GateSettings, similarity: Similarity | None = None) -> None:
        """
        Args:
            settings: thresholds of the gate.
            similarity: computes the similarity of images and prompts; None to skip this test.

        Raises:
            ValueError: `settings` has a threshold for the similarity, but `similarity` is None.
        """
        if settings.similarity is not None and similarity is None:
            raise ValueError("a gate with settings.similarity needs the argument similarity")
        self.settings = settings
        self.similarity = similarity

    def __call__(self, images: Sequence[RGB], prompts: Sequence[str]) -> list[Verdict]:
        """Return the verdict for each image.

        Args:
            images: (H, W, 3) uint8 RGB arrays.
            prompts: prompt of each image.
        """
        similarities: Sequence[float | None] = [None] * len(images)
        if self.similarity is not None:
            similarities = self.similarity(images, prompts)
        return [self._verdict(image, similarity) for image, similarity in zip(images, similarities, strict=True)]

    def _verdict(self, image: RGB, similarity: float | None) -> Verdict:
        lowest, reason = self.settings.similarity, None
        if (contrast := luminance_contrast(image)) < self.settings.contrast:
            reason = f"blank (contrast {contrast:.1f} of 255, at least {self.settings.contrast:g} asked)"
        elif lowest is not None and similarity is not None and similarity < lowest:
            reason = f"similarity to its prompt {similarity:.3f}, at least {lowest:g} asked"
        return Verdict(reason, None if similarity is None else round(similarity, 4), difference_hash(image))


def luminance_contrast(image: RGB) -> float:
    """Return the standard deviation of the luminance of an (H, W, 3) uint8 RGB image, 0..127.5."""
    return float(np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32).std())


def difference_hash(image: RGB) -> str:
    """Return the difference hash of an (H, W, 3) uint8 RGB image: 64 bits as 16 hexadecimal digits.

    Each bit tells whether a pixel of a 9 x 8 thumbnail is darker than its right neighbor.
    """
    small = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, :-1] < small[:, 1:]).tobytes().hex()


def near_duplicates(hashes: Sequence[tuple[int, str]], distance: int) -> dict[int, int]:
    """Find the images that are near-duplicates of an image with a lower index.

    Args:
        hashes: (index, `difference_hash`) of each image.
        distance: largest number of differing bits of near-duplicates.

    Returns:
        Index of a near-duplicate -> lowest index that it duplicates. A near-duplicate does not make later images
        near-duplicates.
    """
    ordered = sorted(hashes)
    words = np.array([int(text, 16) for _, text in ordered], dtype=np.uint64)
    kept = np.empty(len(ordered), dtype=np.intp)  # positions in `ordered`; the first `count` are set
    count = 0
    near: dict[int, int] = {}
    for position, (index, _) in enumerate(ordered):
        close = np.bitwise_count(words[kept[:count]] ^ words[position]) <= distance
        if close.any():
            near[index] = ordered[kept[int(close.argmax())]][0]
        else:
            kept[count] = position
            count += 1
    return near


def duplicate_reason(row: Mapping[str, Any], earlier: Mapping[str, Any], distance: int) -> str:
    """Return the reason for the rejection of a near-duplicate.

    Args:
        row: manifest row of the near-duplicate.
        earlier: manifest row of the image that it duplicates.
        distance: largest number of differing bits of near-duplicates.
    """
    bits = (int(row["dhash"], 16) ^ int(earlier["dhash"], 16)).bit_count()
    return f"near-duplicate of image {earlier['index']} ({bits} of 64 bits differ, more than {distance} asked)"
