"""Contents of the sections of a report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clouds.d2 import MetadataCatalog
from clouds.data.classes import short_name
from clouds.engine.run.metrics import LOSS, read_training
from clouds.evaluation.tables import UNSEEN_MEAN, mean_of
from clouds.experiments.comparisons import class_means, class_names
from clouds.experiments.drawing import Chart
from clouds.experiments.evidence import Evidence
from clouds.experiments.figures import bar_chart, heat_map, line_chart
from clouds.experiments.images import Embedded, embed_photo, embed_sheet
from clouds.experiments.plan import Variant
from clouds.experiments.results import Results, metric_means
from clouds.experiments.statistics import Summary, summarize
from clouds.experiments.tables import ScoreTable
from clouds.generation.records import read_manifest
from clouds.visualization.palette import data_set_colors

Item = TypeVar("Item")

_GENERATED, _PANELS = 24, 3  # images: of the generated set, of pseudo-labels
_TILE, _SHEET = 240, 1000  # widths in pixels of the page
_SELECTED = "\N{DAGGER}"
_PSEUDO_LABELS = {
    "mIoU_teacher": "mIoU of the teacher",
    "mIoU_refined": "mIoU after SAM",
    "kept": "kept by SAM",
    "changed": "changed",
    "dropped": "dropped",
    "agreement": "student agrees",
}


@dataclass(frozen=True)
class Classes:
    """Scores by class.

    Attributes:
        mean: IoU of each class, mean over the unseen test sets.
        by_set: (short name of a test set, figure).
        tables: (key of a row, its title, table of classes and test sets).
    """

    mean: Chart
    by_set: Sequence[tuple[str, Chart]]
    tables: Sequence[tuple[str, str, ScoreTable]]


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices of a test set, of all seeds together.

    Attributes:
        heading: short name of the test set.
        title: title of the row.
        other: title of the row that is subtracted; "" for none.
        matrix: matrix of the row, in percent of the pixels of each true class.
        difference: difference to the other row; None without one.
    """

    heading: str
    title: str
    other: str
    matrix: Chart
    difference: Chart | None


def scores(results: Results, headings: Mapping[str, str], baselines: str) -> ScoreTable:
    """Return the mIoU of each row on each test set; rows that were selected on a test domain are marked."""
    groups: dict[str, list[tuple[str, list[Summary]]]] = {}
    for name, by_set in results.baselines.items():
        values = [*(by_set.get(each, np.nan) for each in results.test_sets), _mean(by_set, results.unseen)]
        groups.setdefault(baselines, []).append((name, [Summary(value) for value in values]))
    for variant in results.variants:
        cells = [summarize(list(results.values(variant.key, name).values())) for name in results.test_sets]
        cells.append(summarize(list(results.unseen_means(variant.key).values())))
        mark = f" {_SELECTED}" if variant.key in results.selected else ""
        groups.setdefault(variant.group, []).append((variant.title + mark, cells))
    sets = ", ".join(dict.fromkeys(headings.get(each, each) for each in results.selected.values()))
    notes = [f"{_SELECTED} selected on {sets}, a test domain"] if sets else []
    columns = [*(headings.get(name, name) for name in results.test_sets), UNSEEN_MEAN]
    return ScoreTable(columns, list(groups.items()), notes=notes)


def classes(results: Results, headings: Mapping[str, str], shown: Sequence[Variant]) -> Classes | None:
    """Return the IoU of every class; None if no row is shown or there is none."""
    names = class_names(results)
    if not names or not shown:
        return None

    def chart(name: str, test_sets: Sequence[str]) -> Chart:
        series = {
            each.title: [mean_of(class_means(results, each.key, name, test_sets).values()) for name in names]
            for each in shown
        }
        return bar_chart(names, series, "IoU in %", name=name)

    columns = [*results.test_sets, None]
    tables = []
    for variant in shown:
        rows = [
            (
                name,
                [
                    summarize(list(class_means(results, variant.key, name, [column] if column else ()).values()))
                    for column in columns
                ],
            )
            for name in names
        ]
        titles = [headings.get(column, column) if column else UNSEEN_MEAN for column in columns]
        tables.append((variant.key, variant.title, ScoreTable(titles, [("", rows)], digits=1, mark_highest=False)))
    return Classes(
        chart("classes", results.unseen),
        [(headings.get(name, name), chart(f"classes-{name}", [name])) for name in results.test_sets],
        tables,
    )


def matrices(
    results: Results, evidence: Evidence, headings: Mapping[str, str], main: Variant | None, other: Variant | None
) -> list[Matrices]:
    """Return the confusion matrices of a row on each test set that it has counts of, and the difference to another."""
    found = []
    for name in results.test_sets:
        values = [_shares(evidence, each, name) for each in (main, other)]
        if main is None or values[0] is None:
            continue
        names, first = values[0]
        difference = None
        if other is not None and values[1] is not None and values[1][0] == names:
            difference = heat_map(names, first - values[1][1], name=f"confusion-difference-{name}", signed=True)
        matrix = heat_map(names, first, name=f"confusion-{name}")
        title = other.title if other is not None and difference is not None else ""
        found.append(Matrices(headings.get(name, name), main.title, title, matrix, difference))
    return found


def _shares(
    evidence: Evidence, variant: Variant | None, test_set: str
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]] | None:
    """Class names, and (C, C) percent of the pixels of each true class (row) that each class is predicted for."""
    counts = evidence.counts(variant.key, test_set) if variant else []
    if not counts:
        return None
    pixels = np.sum([each.matrix[:-1, :-1] for each in counts], axis=0).T.astype(np.float64)
    total = pixels.sum(axis=1, keepdims=True)
    return counts[0].classes, np.divide(100 * pixels, total, out=np.full_like(pixels, np.nan), where=total > 0)


def legend(results: Results) -> list[tuple[str, str]]:
    """Return (name, CSS color) of every class."""
    first = results.test_sets[0]
    names = list(map(short_name, getattr(MetadataCatalog.get(first), "stuff_classes", ()))) or class_names(results)
    colors = data_set_colors(first, names)
    return [(name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in zip(names, colors, strict=True)]


def generated(folder: Path | None) -> list[tuple[Embedded, str]]:
    """Return (image, prompt) of some of the generated images in a folder."""
    if folder is None:
        return []
    rows = read_manifest(folder / "manifest.jsonl")
    return [
        (embed_photo(folder / row["file_name"], f"Generated image: {row['prompt']}", _TILE), row["prompt"])
        for row in _spread(rows, _GENERATED)
    ]


def pseudo_labels(results: Results) -> ScoreTable | None:
    """Return means over the trainings of what they recorded about their pseudo-labels, in percent."""
    rows = {}
    for variant in results.variants:
        runs = [metric_means(run, "pseudo_labels/") for run in _folders(results, variant)]
        if any(runs):
            rows[variant.title] = {
                key: summarize([run[f"pseudo_labels/{key}"] for run in runs if f"pseudo_labels/{key}" in run])
                for key in _PSEUDO_LABELS
            }
    columns = [key for key in _PSEUDO_LABELS if any(cells[key].count for cells in rows.values())]
    if not columns:
        return None
    cells = [(title, [cells[key] for key in columns]) for title, cells in rows.items()]
    return ScoreTable([_PSEUDO_LABELS[key] for key in columns], [("", cells)], digits=1, mark_highest=False)


def panels(results: Results, shown: Sequence[Variant]) -> list[tuple[Embedded, str]]:
    """Return (sheet, caption) of some pseudo-labels of the last shown variant that has any."""
    for variant in reversed(shown):
        for run in _folders(results, variant):
            files = sorted((run / "pseudo_label_panels").glob("[0-9]*[0-9].png"))
            if files:
                captions = {file: f"{variant.title}, iteration {int(file.stem):,}" for file in _spread(files, _PANELS)}
                return [(embed_sheet(file, f"Pseudo-labels: {text}", _SHEET), text) for file, text in captions.items()]
    return []


def curves(results: Results) -> list[tuple[str, Chart]]:
    """Return (caption, figure) of the losses of the first seed."""
    groups = {
        "Trainings that start from their config's weights": [each for each in results.variants if not each.after],
        "Trainings that start from another row": [each for each in results.variants if each.after],
    }
    charts = []
    for position, (caption, group) in enumerate(groups.items()):
        series = {}
        for variant in group:
            for run in list(_folders(results, variant))[:1]:
                rows = [row for row in read_training(run / "metrics.json") if LOSS in row]
                if rows:
                    series[variant.title] = ([row["iteration"] for row in rows], [row[LOSS] for row in rows])
        if series:
            charts.append((caption, line_chart(series, "iteration", "loss", name=f"loss-{position}")))
    return charts


def _folders(results: Results, variant: Variant) -> Iterator[Path]:
    """The output folders of a row, in the order of its seeds."""
    yield from (folder for _, folder in sorted(results.folders.get(variant.key, {}).items()))


def _mean(by_set: Mapping[str, float], test_sets: Sequence[str]) -> float:
    return float(np.mean([by_set.get(each, np.nan) for each in test_sets]))


def _spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """At most `count` of the items, at equal distances."""
    return items[:: max(1, len(items) // count)][:count]
