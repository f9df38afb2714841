"""Parts of the labeled source sets: one to train on, and one that is held out to select weights and settings.

Scores on a set that something is selected by are not those of an unseen domain, so a selection needs images of the
source. Neighboring images of a source may show one place, so the held-out images are whole blocks of consecutive
numbers, or whole cities. The parts of a set are disjoint and together have all of its images. They are fixed.
"""

from collections.abc import Callable
from dataclasses import dataclass

BLOCK = 100
"""Number of consecutive image numbers in a block; block b has the numbers 100 b to 100 b + 99."""

HELD_OUT_CITIES = ("erfurt", "krefeld", "monchengladbach")
"""Cities of the training split of Cityscapes that are held out."""


@dataclass(frozen=True)
class Part:
    """Part of a built-in data set.

    Attributes:
        whole: name of the data set.
        is_held_out: function of the id of an image that returns whether it is held out.
        held_out: whether the part has the images that are held out, or all others.
        num_pairs: number of its pairs in the complete data set.
    """

    whole: str
    is_held_out: Callable[[str], bool]
    held_out: bool
    num_pairs: int

    def has(self, image_id: str) -> bool:
        """Return whether an image of the data set is in this part."""
        return self.is_held_out(image_id) == self.held_out


def in_block(image_id: str, period: int) -> bool:
    """Return whether the block of an image is the middle one of `period` consecutive blocks.

    Args:
        image_id: number of the image; any other id is in no block.
        period: number of blocks.
    """
    return image_id.isdecimal() and int(image_id) // BLOCK % period == period // 2


def _parts(name: str, whole: str, is_held_out: Callable[[str], bool], fit: int, held_out: int) -> dict[str, Part]:
    return {
        f"{name}_fit": Part(whole, is_held_out, held_out=False, num_pairs=fit),
        f"{name}_holdout": Part(whole, is_held_out, held_out=True, num_pairs=held_out),
    }


PARTS: dict[str, Part] = {
    **_parts("gta5", "gta5", lambda image_id: in_block(image_id, 50), 24404, 500),
    **_parts("synthia", "synthia", lambda image_id: in_block(image_id, 25), 9000, 400),
    **_parts("urbansyn", "urbansyn", lambda image_id: in_block(image_id, 25), 7239, 300),
    **_parts(
        "cityscapes",
        "cityscapes_train",
        lambda image_id: image_id.partition("_")[0] in HELD_OUT_CITIES,
        2673,
        302,
    ),
}
"""The parts by name."""


def whole_of(name: str) -> str:
    """Return the name of the data set that a part belongs to; that of another data set is returned as it is."""
    return PARTS[name].whole if name in PARTS else name


def overlap(name: str, other: str) -> bool:
    """Return whether two different data sets, or parts of one, have images in common."""
    return name != other and whole_of(name) == whole_of(other) and not (name in PARTS and other in PARTS)


def fit_part(name: str) -> str:
    """Return the name of the part of a source to train on if the part `name` is held out."""
    return f"{name.removesuffix('_holdout')}_fit"
