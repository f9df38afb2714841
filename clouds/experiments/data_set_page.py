"""Page of data sets: examples with their label maps, views and classes in one HTML file, which needs no other file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds.experiments.images import Embedded, embed
from clouds.experiments.pages import write_page
from clouds.visualization.examples import Example, Look, Share, percent, total_counts


@dataclass(frozen=True)
class ShownExample:
    """Example on the page.

    Attributes:
        name: `image_id` of the image.
        about: file and size of the image.
        images: (image, caption) of each cell.
        shares: classes that occur in the label map; empty without one.
    """

    name: str
    about: str
    images: Sequence[tuple[Embedded, str]]
    shares: Sequence[Share]


@dataclass(frozen=True)
class ShownSet:
    """Data set on the page.

    Attributes:
        name: name of the data set.
        facts: name -> value of what is known about it.
        examples: some of its images.
        shares: classes that occur in the examples.
        absent: names of the classes that do not.
    """

    name: str
    facts: Mapping[str, str]
    examples: Sequence[ShownExample]
    shares: Sequence[Share]
    absent: Sequence[str]


def shown_set(name: str, facts: Mapping[str, str], examples: Sequence[Example], look: Look) -> ShownSet:
    """Embed the examples of a data set.

    Args:
        name: name of the data set.
        facts: name -> value of what is known about it.
        examples: the examples.
        look: appearance by which they were drawn.
    """
    counts = total_counts(examples)
    return ShownSet(
        name,
        facts,
        [_shown(each, look) for each in examples],
        [] if counts is None else look.shares(counts),
        [] if counts is None else look.absent(counts),
    )


def _shown(example: Example, look: Look) -> ShownExample:
    width = look.width // 2
    images = [
        (embed(cell.image, f"{example.name}: {cell.caption}", width, "png" if cell.is_flat else "jpeg"), cell.caption)
        for cell in example.cells
    ]
    height, own = example.size
    shares = [] if example.counts is None else look.shares(example.counts)
    return ShownExample(example.name, f"{example.file}, {own} x {height} pixels", images, shares)


def write_data_sets(title: str, subtitle: str, sets: Sequence[ShownSet], file: Path) -> None:
    """Write the page.

    Args:
        title: title of the page.
        subtitle: line below the title.
        sets: the data sets.
        file: path of the page.
    """
    values = {"title": title, "subtitle": subtitle, "sets": sets}
    write_page("data_sets.html", file, values, {"percent": percent})
