"""Worst and best images of each test set, side by side: image, ground truth, and the predictions of the shown rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.data.datasets.catalog import load_dataset
from clouds.data.encoding import read_train_ids
from clouds.errors import UserError
from clouds.evaluation.files import ImageCounts, mean_iou
from clouds.evaluation.label_files import file_stem
from clouds.experiments.evidence import RunFiles
from clouds.experiments.images import Embedded, embed_labels, embed_photo
from clouds.experiments.plan import Variant
from clouds.experiments.tables import number
from clouds.visualization.palette import data_set_colors

MOST_SETS = 6
"""Number of test sets of which images are shown."""
WORST, BEST = 2, 2
"""Number of images with the lowest and with the highest mIoU that are shown of each test set."""
COLUMN = 260
"""Width of an image in pixels of the page; a file has at most twice as many."""


@dataclass(frozen=True)
class Example:
    """An image of a test set.

    Attributes:
        heading: heading above it; "" where that of the image before holds.
        title: which image it is.
        cells: (image or None if it is missing, caption): image, ground truth, then a prediction of each shown row.
    """

    heading: str
    title: str
    cells: Sequence[tuple[Embedded | None, str]]


@dataclass
class Examples:
    """The shown images.

    Attributes:
        images: images of all test sets, in order.
        notes: sentences about what is missing.
    """

    images: list[Example] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)


def find_examples(
    test_sets: Sequence[str], headings: Mapping[str, str], rows: Sequence[tuple[Variant, RunFiles]], main: str | None
) -> Examples:
    """Return the worst and best images by the mIoU of one row; without counts, the first images.

    Args:
        test_sets: names of the test sets.
        headings: test set -> its short name.
        rows: shown rows, each with the run whose predictions are shown.
        main: key of the row by whose mIoU the images are chosen.
    """
    found = Examples()
    if len(test_sets) > MOST_SETS:
        found.notes[f"Images of the first {MOST_SETS} test sets only."] = None
    for name in test_sets[:MOST_SETS]:
        records = _records(name, found)
        scores = {variant.key: _image_scores(run.counts(name)) for variant, run in rows}
        files = next((dict(zip(c.images, c.files, strict=True)) for _, run in rows if (c := run.counts(name))), {})
        chosen = _chosen(scores.get(main or "", {})) or [("", each) for each in list(records)[:WORST]]
        before = len(found.images)
        for kind, image in chosen:
            record = records.get(image) or {"file_name": files.get(image, "")}
            own = {key: by_image.get(image, math.nan) for key, by_image in scores.items()}
            cells = [*_data_cells(name, image, record, found), *_predictions(name, image, rows, own, found)]
            title = f"{kind}: {image}" if kind else image
            if any(embedded for embedded, _ in cells):
                heading = headings.get(name, name) if len(found.images) == before else ""
                found.images.append(Example(heading, title, cells))
    return found


def _image_scores(counts: ImageCounts | None) -> dict[str, float]:
    if counts is None:
        return {}
    return dict(zip(counts.images, mean_iou(counts.counts, counts.absent).tolist(), strict=True))


def _chosen(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """(kind, image id) of the worst and best images; an image without a score is neither."""
    order = sorted((image for image, score in scores.items() if not math.isnan(score)), key=scores.__getitem__)
    worst = order[:WORST]
    best = order[max(len(worst), len(order) - BEST) :][::-1]
    return [*(("worst", each) for each in worst), *(("best", each) for each in best)]


def _records(name: str, found: Examples) -> dict[str, dict[str, Any]]:
    """Image id -> record of a test set; empty with a note if it is not there."""
    if name not in DatasetCatalog.list():
        found.notes[f"{name} is not registered here, so its ground truth is not shown."] = None
        return {}
    try:
        return {record["image_id"]: record for record in load_dataset(name)}
    except UserError as error:
        found.notes[f"The files of {name} are not here, so its ground truth is not shown: {error}"] = None
        return {}


def _data_cells(name: str, image: str, record: Mapping[str, Any], found: Examples) -> list[tuple[Embedded | None, str]]:
    """The image and its ground truth."""
    alternative = f"{name}, {image}"
    photo = _attempt(
        lambda: embed_photo(Path(record["file_name"]), alternative, COLUMN),
        f"Images of {name} that are no longer in their place are left out, such as {record['file_name'] or image}.",
        found,
    )
    truth = None
    if "sem_seg_file_name" in record:
        truth = _attempt(
            lambda: _labels(name, record["sem_seg_file_name"], f"{alternative}: truth", record.get("label_encoding")),
            f"Label maps of {name} that are no longer in their place are left out.",
            found,
        )
    return [(photo, "image"), (truth, "ground truth")]


def _predictions(
    name: str,
    image: str,
    rows: Sequence[tuple[Variant, RunFiles]],
    scores: Mapping[str, float],
    found: Examples,
) -> list[tuple[Embedded | None, str]]:
    """The label maps that the shown runs have saved."""
    cells = []
    for variant, run in rows:
        folder = run.folder / "pseudo_labels" / name
        file = f"{folder / file_stem(image)}_labelTrainIds.png"
        score = scores.get(variant.key, math.nan)
        caption = variant.title if math.isnan(score) else f"{variant.title}, mIoU {number(score, 1)}"
        shown = None
        counts = run.counts(name)
        classes = counts.classes if counts else ()
        if Path(file).is_file():
            alternative = f"{name}, {image}: prediction of {variant.title}"
            shown = _attempt(
                partial(_labels, name, file, alternative, classes=classes), f"{file} is damaged and left out.", found
            )
        elif not folder.is_dir():
            remedy = "evaluate with MODEL.SAVE_PSEUDO_LABELS True to see them"
            found.notes[f"“{variant.title}” has no saved label maps of {name}: {remedy}."] = None
        cells.append((shown, caption))
    return cells


def _attempt(embed: Callable[[], Embedded], note: str, found: Examples) -> Embedded | None:
    try:
        return embed()
    except UserError:
        found.notes[note] = None
        return None


def _labels(name: str, file: str, alternative: str, encoding: Any = None, classes: Sequence[str] = ()) -> Embedded:
    known = getattr(MetadataCatalog.get(name), "stuff_classes", classes)
    labels = read_train_ids(file, len(known), encoding)
    return embed_labels(labels, data_set_colors(name, known), alternative, COLUMN)
