"""Report of an experiment: one HTML file that needs no other file and no network, tables and figures as files.

The page is rendered from `templates/`. Every text is escaped; only the figures are markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clouds.evaluation.label_files import file_stem
from clouds.experiments import exports, sections
from clouds.experiments.comparisons import Comparison, compare
from clouds.experiments.conclusion import Conclusion, conclude, verdict
from clouds.experiments.drawing import SERIES, Chart
from clouds.experiments.evidence import Evidence
from clouds.experiments.examples import Examples, find_examples
from clouds.experiments.pages import write_page
from clouds.experiments.plan import Variant
from clouds.experiments.results import Results
from clouds.experiments.statistics import Unit
from clouds.experiments.tables import ScoreTable, deviation, number
from clouds.utils.atomic import make_folder, write_atomically

PAGE, TABLES, FIGURES = "report.html", "tables", "figures"
"""Names in the folder of a report."""
KINDS: tuple[Literal["svg", "pdf"], ...] = ("svg", "pdf")
"""Formats of the files of a figure."""


@dataclass(frozen=True)
class Report:
    """Content of a report.

    Attributes:
        results: scores of all runs.
        title: title of the page.
        subtitle: line below the title.
        headings: test set -> its short name.
        shown: keys of the variants whose class scores and predictions are shown, at most `drawing.SERIES`.
        baselines: heading above the baselines.
        generated: folder of the generated images that are shown; None for none.
        generated_text: paragraph about the generated images.
        facts: name -> value of what is needed to repeat the experiment.
        notes: sentences about the method.
        unit: unit that the bootstrap resamples.
        missing: sentences about runs that are not shown.
    """

    results: Results
    title: str
    subtitle: str
    headings: Mapping[str, str]
    shown: Sequence[str]
    baselines: str = "Baselines"
    generated: Path | None = None
    generated_text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    unit: Unit = "image"
    missing: Sequence[str] = ()

    @property
    def shown_variants(self) -> list[Variant]:
        """The variants of `shown` that were trained."""
        return [each for each in self.results.variants if each.key in self.shown]

    @property
    def main(self) -> tuple[Variant | None, Variant | None]:
        """The row whose confusion matrices and images are shown, and the row that it is compared with.

        They are the first comparison of the report; without one, the last shown row and none.
        """
        pair = next(iter(self.results.compared), None)
        return pair or (next(reversed(self.shown_variants), None), None)


@dataclass(frozen=True)
class Content:
    """Content of the page.

    Attributes:
        scores: mIoU of each row on each test set.
        conclusion: conclusion from the comparisons; None without any.
        comparisons: differences between rows.
        classes: figures and tables of the classes.
        matrices: confusion matrices.
        examples: worst and best images.
        curves: (caption, figure) of the losses.
        missing: sentences about what is missing.
    """

    scores: ScoreTable
    conclusion: Conclusion | None
    comparisons: Sequence[Comparison]
    classes: sections.Classes | None
    matrices: Sequence[sections.Matrices]
    examples: Examples
    curves: Sequence[tuple[str, Chart]]
    missing: Sequence[str]


def gather(report: Report) -> Content:
    """Compute what the page shows, from the scores and from the files of the runs.

    Raises:
        UserError: a file of a run is damaged.
        ValueError: more variants are shown than there are colors.
    """
    if len(report.shown_variants) > SERIES:
        raise ValueError(f"shown: {len(report.shown_variants)} variants, but there are {SERIES} colors")
    results, evidence = report.results, Evidence(report.results)
    comparisons = compare(results, evidence, report.unit)
    runs = {each: list(evidence.runs.get(each.key, {}).values()) for each in report.shown_variants}
    first_runs = [(each, found[0]) for each, found in runs.items() if found]
    main, other = report.main
    return Content(
        scores=sections.scores(results, report.headings, report.baselines),
        conclusion=conclude([each.rows[0].shown for each in comparisons if each.rows]),
        comparisons=comparisons,
        classes=sections.classes(results, report.headings, report.shown_variants),
        matrices=sections.matrices(results, evidence, report.headings, main, other),
        examples=find_examples(results.test_sets, report.headings, first_runs, main.key if main else None),
        curves=sections.curves(results),
        missing=[*report.missing, *evidence.missing()],
    )


def write_report(report: Report, folder: Path) -> None:
    """Write `report.html`, `tables/*.{md,tex,csv}` and `figures/*.{svg,pdf}`; the test sets should be registered.

    Raises:
        UserError: a file of a run is damaged.
        WriteError: a file cannot be written.
        ValueError: more variants are shown than there are colors.
    """
    content = gather(report)
    values = {
        "report": report,
        "content": content,
        "legend": sections.legend(report.results),
        "generated": sections.generated(report.generated),
        "pseudo_labels": sections.pseudo_labels(report.results),
        "panels": sections.panels(report.results, report.shown_variants),
        "SERIES": SERIES,
    }
    for name in (TABLES, FIGURES):
        make_folder(folder / name)
    for name, text in tables(content).items():
        write_atomically(folder / TABLES / name, text.encode("utf-8", errors="replace"))
    for chart in charts(content):
        for kind in KINDS:
            write_atomically(folder / FIGURES / f"{_file_name(chart.name)}.{kind}", chart.file(kind))
    write_page("report.html", folder / PAGE, values, {"number": number, "deviation": deviation, "verdict": verdict})


def tables(content: Content) -> dict[str, str]:
    """Return the tables as files: name -> text."""
    scores = {"scores": (content.scores, "mIoU in %")}
    if content.classes:
        scores |= {
            f"classes-{_file_name(key)}": (table, f"IoU by class in %: {title}")
            for key, title, table in content.classes.tables
        }
    texts = {name: exports.score_table(table, caption) for name, (table, caption) in scores.items()}
    files = {f"{name}.csv": exports.scores_csv(table) for name, (table, _) in scores.items()}
    for name, classes in {"differences": False, "differences-by-class": True}.items() if content.comparisons else ():
        texts[name] = exports.difference_table(content.comparisons, classes)
        files[f"{name}.csv"] = exports.differences_csv(content.comparisons, classes)
    for name, table in texts.items():
        files |= {f"{name}.md": exports.to_markdown(table), f"{name}.tex": exports.to_latex(table, name)}
    return files


def charts(content: Content) -> list[Chart]:
    """Return all figures."""
    found = [chart for _, chart in content.curves]
    if content.classes:
        found += [content.classes.mean, *(chart for _, chart in content.classes.by_set)]
    for each in content.matrices:
        found += [each.matrix, *([each.difference] if each.difference else [])]
    return found


def _file_name(name: str) -> str:
    return file_stem(name).replace("/", "-")
