"""Output of ``clouds report``: a table and a sentence, or the folder of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from clouds.engine.run.summary import format_summaries, summarize
from clouds.errors import UserError
from clouds.experiments.comparisons import compare
from clouds.experiments.conclusion import conclude
from clouds.experiments.evidence import Evidence
from clouds.experiments.report import PAGE, write_report
from clouds.experiments.runs import report_of
from clouds.experiments.statistics import Unit


def print_report(
    folders: Sequence[Path],
    stream: TextIO,
    *,
    output: Path | None = None,
    compared: Sequence[Sequence[str]] = (),
    unit: Unit = "image",
) -> None:
    """Write the final scores as a table in Markdown and the conclusion, or with `output` the files of a report.

    Args:
        folders: output folders, see `report_of`.
        stream: gets the table.
        output: folder of the report; None for the table alone.
        compared: pairs of names of rows; default: each later row with the first one.
        unit: unit that the bootstrap resamples.

    Raises:
        UserError: a folder has no scores, a file is damaged, or rows to compare were measured differently.
    """
    report = report_of(folders, compared, unit)
    evidence = Evidence(report.results)
    for one, other in report.results.compared if compared else ():
        if fault := evidence.fault(one.key, other.key, report.results.test_sets):
            raise UserError(f"{one.title} and {other.title} cannot be compared: {fault}.")
    if output is not None:
        write_report(report, output)
        stream.write(f"{output / PAGE}\n")
        return
    runs = [folder for by_seed in report.results.folders.values() for folder in by_seed.values()]
    stream.write(format_summaries([row for folder in runs for row in summarize(folder)]) + "\n")
    for sentence in report.missing:
        stream.write(f"\n{sentence}\n")
    comparisons = compare(report.results, evidence, unit)
    for each in comparisons:
        if each.fault:
            stream.write(f"\n{each.first} and {each.second} are not compared: {each.fault}.\n")
    conclusion = conclude([each.rows[0].shown for each in comparisons if each.rows])
    if conclusion:
        stream.write("\n" + "\n".join([conclusion.sentence, *conclusion.effects]) + "\n")
