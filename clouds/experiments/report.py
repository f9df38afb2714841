"""Report of an experiment: one HTML file with tables, figures and images, which needs no other file and no network.

The page is rendered from `templates/`. Every text is escaped; only the figures are markup.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import jinja2

from clouds.d2 import MetadataCatalog
from clouds.data.classes import short_name
from clouds.data.datasets.catalog import load_dataset
from clouds.data.encoding import read_train_ids
from clouds.engine.run.metrics import LOSS, read_training
from clouds.evaluation.label_files import file_stem
from clouds.evaluation.tables import UNSEEN_MEAN, mean_of
from clouds.experiments.conclusion import conclude, verdict
from clouds.experiments.figures import SERIES, Chart, bar_chart, line_chart
from clouds.experiments.images import Embedded, embed_labels, embed_photo, embed_sheet
from clouds.experiments.plan import Variant, run_folder
from clouds.experiments.results import Results, metric_means
from clouds.experiments.statistics import Difference, Summary, summarize
from clouds.experiments.tables import ScoreTable, deviation, number
from clouds.generation.records import read_manifest
from clouds.utils.atomic import write_atomically

Item = TypeVar("Item")

_EXAMPLES, _GENERATED, _PANELS = 2, 24, 3  # images: of each test set, of the generated set, of pseudo-labels
_COLUMN, _TILE, _SHEET = 260, 240, 1000  # widths in pixels of the page
_PSEUDO_LABELS = {
    "mIoU_teacher": "mIoU of the teacher",
    "mIoU_refined": "mIoU after SAM",
    "kept": "kept by SAM",
    "changed": "changed",
    "dropped": "dropped",
    "agreement": "student agrees",
}


@dataclass(frozen=True)
class Report:
    """Content of a report.

    Attributes:
        results: scores of all runs.
        output: folder of the runs.
        title: title of the page.
        subtitle: line below the title.
        headings: test set -> its short name.
        shown: keys of the variants whose class scores and predictions are shown, at most `figures.SERIES`.
        baselines: heading above the baselines.
        generated: folder of the generated images that are shown; None for none.
        generated_text: paragraph about the generated images.
        facts: name -> value of what is needed to repeat the experiment.
        notes: sentences about the method.
    """

    results: Results
    output: Path
    title: str
    subtitle: str
    headings: Mapping[str, str]
    shown: Sequence[str]
    baselines: str = "Baselines"
    generated: Path | None = None
    generated_text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def shown_variants(self) -> list[Variant]:
        """The variants of `shown` that were trained."""
        return [each for each in self.results.variants if each.key in self.shown]

    def folder(self, key: str, seed: int | None = None) -> Path:
        """Return the folder of a run; default the first seed."""
        return run_folder(self.output, key, self.results.seeds[0] if seed is None else seed)


def write_report(report: Report, file: Path) -> None:
    """Write the page; the test sets must be registered.

    Raises:
        UserError: an image or label map is missing or damaged.
        ValueError: more variants are shown than there are colors.
    """
    if len(report.shown_variants) > SERIES:
        raise ValueError(f"shown: {len(report.shown_variants)} variants, but there are {SERIES} colors")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clouds.experiments"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "deviation": deviation, "verdict": verdict}
    environment.globals["SERIES"] = SERIES
    page = environment.get_template("report.html").render(
        report=report,
        scores=_score_table(report),
        conclusion=conclude(report.results.differences()),
        differences=_differences(report),
        classes=_class_scores(report),
        legend=_legend(report),
        examples=list(_examples(report)),
        generated=_generated(report),
        pseudo_labels=_pseudo_labels(report),
        panels=_panels(report),
        curves=_curves(report),
    )
    # The name of a file may contain bytes that are not text.
    write_atomically(file, page.encode("utf-8", errors="replace"))


def _score_table(report: Report) -> ScoreTable:
    results = report.results
    groups: dict[str, list[tuple[str, list[Summary]]]] = {}
    for name, by_set in results.baselines.items():
        values = [*(by_set[each] for each in results.test_sets), mean_of(by_set[each] for each in results.unseen)]
        groups.setdefault(report.baselines, []).append((name, [Summary(value) for value in values]))
    for variant in results.variants:
        runs = results.scores[variant.key].values()
        cells = [summarize([run[name]["mIoU"] for run in runs]) for name in results.test_sets]
        cells.append(summarize(list(results.unseen_means(variant.key).values())))
        groups.setdefault(variant.group, []).append((variant.title, cells))
    return ScoreTable([*(report.headings[name] for name in results.test_sets), UNSEEN_MEAN], list(groups.items()))


def _differences(report: Report) -> list[tuple[str, list[Difference]]]:
    """(caption, differences) for each kind of score; none without comparisons."""
    names = {"mIoU": "mIoU", "fwIoU": "frequency-weighted IoU, in which a class counts by its share of pixels"}
    tables = [
        (f"Differences of the unseen mean in {name}", report.results.differences(key)) for key, name in names.items()
    ]
    return [(caption, differences) for caption, differences in tables if differences]


def _class_scores(report: Report) -> tuple[Chart, ScoreTable] | None:
    """IoU of every class, mean over seeds and unseen test sets, as a figure and as a table."""
    classes = [name for name, _ in _legend(report)]
    series = {}
    for variant in report.shown_variants:
        runs = [run[name] for run in report.results.scores[variant.key].values() for name in report.results.unseen]
        series[variant.title] = [mean_of(run.get(f"IoU-{name}", math.nan) for run in runs) for name in classes]
    if not series:
        return None
    rows = [(name, [Summary(values[index]) for values in series.values()]) for index, name in enumerate(classes)]
    table = ScoreTable(list(series), [("", rows)], digits=1, mark_best=False)
    return bar_chart(classes, series, "IoU in %", name="classes"), table


def _legend(report: Report) -> list[tuple[str, str]]:
    """(name, CSS color) of every class."""
    metadata = MetadataCatalog.get(report.results.test_sets[0])
    return [
        (short_name(name), "#{:02x}{:02x}{:02x}".format(*color))
        for name, color in zip(metadata.stuff_classes, metadata.stuff_colors, strict=True)
    ]


def _examples(report: Report) -> Iterator[tuple[str, list[Embedded | None]]]:
    """(heading, images) of some images of each test set: image, ground truth, predictions of the first seed."""
    for name in report.results.test_sets:
        heading = report.headings[name]
        for index, record in enumerate(load_dataset(name)[:_EXAMPLES]):
            title = f"{heading}, image {index + 1}"
            truth = Path(record["sem_seg_file_name"])
            cells = [embed_photo(Path(record["file_name"]), title, _COLUMN), _label_map(truth, name, f"{title}: truth")]
            for variant in report.shown_variants:
                predicted = report.folder(variant.key) / "pseudo_labels" / name / file_stem(record["image_id"])
                file = Path(f"{predicted}_labelTrainIds.png")
                cells.append(_label_map(file, name, f"{title}: prediction of {variant.title}"))
            yield "" if index else heading, cells


def _label_map(file: Path, test_set: str, alternative: str) -> Embedded | None:
    if not file.is_file():
        return None
    metadata = MetadataCatalog.get(test_set)
    return embed_labels(
        read_train_ids(str(file), len(metadata.stuff_classes)), metadata.stuff_colors, alternative, _COLUMN
    )


def _generated(report: Report) -> list[tuple[Embedded, str]]:
    """(image, prompt) of some of the generated images."""
    if report.generated is None:
        return []
    rows = read_manifest(report.generated / "manifest.jsonl")
    return [
        (embed_photo(report.generated / row["file_name"], f"Generated image: {row['prompt']}", _TILE), row["prompt"])
        for row in _spread(rows, _GENERATED)
    ]


def _pseudo_labels(report: Report) -> ScoreTable | None:
    """Means over the trainings of what they recorded about their pseudo-labels, in percent."""
    rows = {}
    for variant in report.results.variants:
        runs = [metric_means(report.folder(variant.key, seed), "pseudo_labels/") for seed in report.results.seeds]
        if any(runs):
            rows[variant.title] = {
                key: summarize([run[f"pseudo_labels/{key}"] for run in runs if f"pseudo_labels/{key}" in run])
                for key in _PSEUDO_LABELS
            }
    columns = [key for key in _PSEUDO_LABELS if any(cells[key].count for cells in rows.values())]
    if not columns:
        return None
    cells = [(title, [cells[key] for key in columns]) for title, cells in rows.items()]
    return ScoreTable([_PSEUDO_LABELS[key] for key in columns], [("", cells)], digits=1, mark_best=False)


def _panels(report: Report) -> list[tuple[Embedded, str]]:
    """(sheet, caption) of some pseudo-labels of the last shown variant that has any."""
    for variant in reversed(report.shown_variants):
        files = sorted((report.folder(variant.key) / "pseudo_label_panels").glob("[0-9]*[0-9].png"))
        if files:
            captions = {file: f"{variant.title}, iteration {int(file.stem):,}" for file in _spread(files, _PANELS)}
            return [(embed_sheet(file, f"Pseudo-labels: {text}", _SHEET), text) for file, text in captions.items()]
    return []


def _curves(report: Report) -> list[tuple[str, Chart]]:
    """(caption, figure) of the losses of the first seed."""
    variants = report.results.variants
    groups = {
        "Trainings that start from their config's weights": [each for each in variants if not each.after],
        "Trainings that start from another row": [each for each in variants if each.after],
    }
    charts = []
    for position, (caption, group) in enumerate(groups.items()):
        series = {}
        for variant in group:
            rows = [row for row in read_training(report.folder(variant.key) / "metrics.json") if LOSS in row]
            series[variant.title] = ([row["iteration"] for row in rows], [row[LOSS] for row in rows])
        if series:
            charts.append((caption, line_chart(series, "iteration", "loss", name=f"loss-{position}")))
    return charts


def _spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """At most `count` of the items, at equal distances."""
    return items[:: max(1, len(items) // count)][:count]
