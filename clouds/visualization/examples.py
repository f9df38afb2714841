"""Examples of a data set: an image with its label map, and random views of both as the training sees them.

Every image is shrunk as soon as it is read, so that the memory is that of one image, whatever their number and size.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import IGNORE_LABEL, short_name
from clouds.data.datasets.record import Record, is_generated
from clouds.data.loading.augmentation import Window, resize_label_window
from clouds.data.loading.mappers import read_pair
from clouds.data.preparation.class_statistics import count_values
from clouds.errors import UserError
from clouds.visualization.contact_sheet import contact_sheet
from clouds.visualization.palette import Color, colorize, overlay

UInt8Array = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Mapper = Callable[[Record, np.random.Generator], Record]

VOID = "void"
"""Name of the ignored pixels in a legend."""
_BLACK: Color = (0, 0, 0)
_SAMPLES = 4  # pixels of a label map for each pixel of its drawing, in each direction: thin objects stay visible
_ROW = 6  # cells of a contact sheet side by side
_NAMED = 6  # classes in the caption of a label map


class Cell(NamedTuple):
    """Image of an example, no wider than it is shown.

    Attributes:
        caption: description of the image.
        image: RGB image.
        is_flat: whether it is a drawing of flat colors, which is stored without loss.
    """

    caption: str
    image: Image.Image
    is_flat: bool = False


@dataclass(frozen=True)
class Example:
    """Image of a data set.

    Attributes:
        name: its `image_id`.
        file: path of the image.
        size: (H, W) of the image in pixels.
        cells: the image, its label map and its views.
        counts: (256,) number of pixels of each train id in the whole label map; None without a label map.
    """

    name: str
    file: Path
    size: tuple[int, int]
    cells: tuple[Cell, ...]
    counts: Counts | None


class Share(NamedTuple):
    """Entry of a legend: name and color of a class, and its share of the pixels, 0 to 1."""

    name: str
    color: Color
    share: float


@dataclass(frozen=True)
class Look:
    """Appearance of the examples of a data set.

    Attributes:
        classes: names of the classes by train id, synonyms separated by commas.
        colors: RGB, 0..255, by train id.
        width: largest width of a cell in pixels.
        mapper: function that draws views of a record; None for no views.
        seed: seed of the views.
        draws: number of views.
    """

    classes: Sequence[str]
    colors: Sequence[Sequence[int]]
    width: int = 560
    mapper: Mapper | None = None
    seed: int = 0
    draws: int = 3

    def example(self, record: Record) -> Example:
        """Read a record and draw its cells.

        Raises:
            UserError: a file is missing or damaged, sizes differ, or a label value is unknown.
        """
        truth = is_generated(record) and "truth_file_name" in record
        key = "truth_file_name" if is_generated(record) else "sem_seg_file_name"
        image, labels = read_pair(record, key, len(self.classes))
        name, size = record["image_id"], (image.height, image.width)
        counts = None if labels is None else count_values(labels)
        cells = [Cell(f"{name}, {image.width} x {image.height} pixels", shrunk(image, self.width))]
        if labels is not None and counts is not None:
            shares = ", ".join(f"{each.name} {percent(each.share)}" for each in largest(self.shares(counts), _NAMED))
            caption = f"true label map, never trained on: {shares}" if truth else f"label map: {shares}"
            cells += [self.label_cell(labels, caption), Cell("overlay", self.overlaid(image, labels))]
        del image, labels  # a view reads them again
        cells += self.views(record) if self.mapper else []
        return Example(name, Path(record["file_name"]), size, tuple(cells), counts)

    def views(self, record: Record) -> list[Cell]:
        """Draw views of a record, as the network and, for a generated image, the teacher get them."""
        assert self.mapper is not None
        cells = []
        for draw in range(1, self.draws + 1):
            # The view does not depend on the other images that are shown.
            words = np.frombuffer(record["image_id"].encode(errors="surrogatepass"), np.uint8)
            mapped = self.mapper(record, np.random.default_rng([self.seed, draw, *words.tolist()]))
            image, labels = _pixels(mapped["image"]), mapped.get("sem_seg")
            if is_generated(record):
                clean, truth = _pixels(mapped.get("image_clean", mapped["image"])), mapped.get("truth")
                cells.append(Cell(f"draw {draw}, as the teacher sees it", shrunk(clean, self.width)))
                cells.append(Cell(f"draw {draw}, as the network sees it", shrunk(image, self.width)))
                if truth is not None:
                    cells.append(self.label_cell(truth.numpy(), f"draw {draw}, its true label map"))
                continue
            size = f"{image.width} x {image.height}"
            cells.append(Cell(f"draw {draw}, {size} pixels, as the network sees it", shrunk(image, self.width)))
            if labels is not None:
                cells.append(self.label_cell(labels.numpy(), f"draw {draw}, its label map"))
                cells.append(Cell(f"draw {draw}, overlay", self.overlaid(image, labels.numpy())))
        return cells

    def label_cell(self, labels: UInt8Array, caption: str) -> Cell:
        """Draw a label map (H, W) of train ids in the colors of its classes; ignored pixels are black."""
        drawn = Image.fromarray(colorize(_sampled(labels, _SAMPLES * self.width), self.colors))
        return Cell(caption, shrunk(drawn, self.width), is_flat=True)

    def overlaid(self, image: Image.Image, labels: UInt8Array) -> Image.Image:
        """Blend an image with its label map (H, W)."""
        sampled = _sampled(labels, _SAMPLES * self.width)
        pixels = image.resize(sampled.shape[::-1], Image.Resampling.BOX, reducing_gap=2.0)
        return shrunk(Image.fromarray(overlay(np.asarray(pixels), sampled, self.colors)), self.width)

    def shares(self, counts: Counts) -> list[Share]:
        """Return the classes that occur, by train id, and the ignored pixels as the last entry.

        Args:
            counts: (256,) number of pixels of each train id.
        """
        total = max(int(counts.sum()), 1)
        named = zip(self.classes, self.colors, counts.tolist(), strict=False)
        found = [Share(short_name(name), _color(color), count / total) for name, color, count in named if count]
        ignored = int(counts[IGNORE_LABEL])
        return [*found, Share(VOID, _BLACK, ignored / total)] if ignored else found

    def absent(self, counts: Counts) -> list[str]:
        """Return the names of the classes without a pixel."""
        return [short_name(name) for name, count in zip(self.classes, counts.tolist(), strict=False) if not count]


def select(records: Sequence[Record], count: int, seed: int, names: Sequence[str] = ()) -> list[Record]:
    """Select records: those of `names`, or `count` at random, in their order.

    Args:
        records: records of a data set.
        count: number of records; all of them if there are fewer.
        seed: seed of the selection.
        names: an `image_id`, its last part, or the name of an image file without its ending, for each record.

    Raises:
        UserError: no record, or several records, have one of the names.
    """
    if not names:
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(records), min(count, len(records)), replace=False)
        return [records[index] for index in np.sort(chosen)]
    by_name: dict[str, list[Record]] = {}
    for record in records:
        for name in {record["image_id"], record["image_id"].rpartition("/")[2], Path(record["file_name"]).stem}:
            by_name.setdefault(name, []).append(record)
    return [_named(name, by_name) for name in names]


def _named(name: str, by_name: dict[str, list[Record]]) -> Record:
    found = by_name.get(name, [])
    if len(found) > 1:
        ids = ", ".join(record["image_id"] for record in found[:3])
        raise UserError(f"--names has {name}, which {len(found)} images are called ({ids}, ...): give the whole id.")
    if not found:
        near = difflib.get_close_matches(name, by_name, n=1)
        hint = f"the nearest is {near[0]}" if near else f"the first is {next(iter(by_name))}"
        raise UserError(f"--names has {name}, which no image of the data set is called: {hint}.")
    return found[0]


def total_counts(examples: Iterable[Example]) -> Counts | None:
    """Return (256,) pixels of each train id in all label maps together; None if there are none."""
    counts = [each.counts for each in examples if each.counts is not None]
    return np.sum(counts, axis=0) if counts else None


def draw_sheet(title: str, examples: Sequence[Example], look: Look) -> Image.Image:
    """Draw a contact sheet of at least one example, with a legend of the classes that occur and their shares."""
    cells = [cell for example in examples for cell in example.cells]
    per_image = len(examples[0].cells)
    counts = total_counts(examples)
    shares = [] if counts is None else look.shares(counts)
    return contact_sheet(
        [cell.image for cell in cells],
        [cell.caption for cell in cells],
        title=title,
        columns=_ROW if per_image % _ROW == 0 or _ROW % per_image == 0 else per_image,
        cell_width=look.width // 2,
        classes=[f"{each.name} {percent(each.share)}" for each in shares],
        colors=[each.color for each in shares],
    )


def largest(shares: Sequence[Share], count: int) -> list[Share]:
    """Return the entries with the largest shares, from the largest on."""
    return sorted(shares, key=lambda each: -each.share)[:count]


def percent(share: float) -> str:
    """Return a share of 0 to 1 as a text, such as "12.3 %"."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def shrunk(image: Image.Image, width: int) -> Image.Image:
    """Return an image that is not wider than `width` pixels, with its aspect ratio; a small one as it is."""
    if image.width <= width:
        return image
    size = (width, max(1, round(width * image.height / image.width)))
    return image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _sampled(labels: UInt8Array, width: int) -> UInt8Array:
    """Return a label map that is not wider than `width` pixels, by nearest neighbor."""
    height, own = labels.shape
    if own <= width:
        return labels
    size = (max(1, round(width * height / own)), width)
    return resize_label_window(labels, Window(*size, 0, 0, *size))


def _pixels(tensor: Any) -> Image.Image:
    """Return the image of a (3, H, W) uint8 tensor."""
    return Image.fromarray(np.ascontiguousarray(tensor.numpy().transpose(1, 2, 0)))


def _color(color: Sequence[int]) -> Color:
    red, green, blue = map(int, color)
    return red, green, blue
