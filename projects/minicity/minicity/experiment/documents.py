"""Tables and sentences of the documents about the experiment, from the scores in `results/`."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from clouds.experiments.conclusion import verdict
from clouds.experiments.documents import fill, keep_results, kept_results, markdown_table
from clouds.experiments.plan_file import read_plan
from clouds.experiments.results import Results, mean_over
from clouds.experiments.statistics import Difference, paired_difference, summarize
from clouds.utils.atomic import write_atomically
from clouds.utils.json_files import read_json
from minicity.experiment.baselines import COLOR, CONSTANT
from minicity.paths import PROJECT, REPOSITORY, shown

RESULTS = PROJECT / "results"
"""Folder of the committed scores."""
DOCUMENTS = (REPOSITORY / "README.md", PROJECT / "RESULTS.md")

_WIDTH = 120  # characters of a line
_SOURCE = "minicity_sim_val"
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_BASELINES = {CONSTANT: "constant (most frequent class)", COLOR: "color and position of a pixel"}
_DEMO = {
    "scratch": "CLIP tower trained from scratch",
    "frozen": "**frozen CLIP: the warm-up**",
    "plain": "joint training, the teacher's labels",
    "joint": "**joint training, SAM's labels**",
}
_ROWS = {
    "scratch": "CLIP tower trained from scratch",
    "tuned": "CLIP, fine-tuned",
    "frozen": "frozen CLIP: the warm-up",
    "longer": "as many more iterations on the source",
    "plain": "joint training, the teacher's labels",
    "joint": "joint training, SAM's labels",
}
_COMPARISONS = {
    ("frozen", "scratch"): "frozen CLIP, against training from scratch",
    ("frozen", "tuned"): "frozen CLIP, against fine-tuned CLIP",
    ("joint", "frozen"): "joint training, against the warm-up",
    ("joint", "longer"): "joint training, against as many more iterations on the source",
    ("joint", "plain"): "SAM's labels, against the teacher's",
}


def write_documents(documents: Sequence[Path] = DOCUMENTS) -> list[Path]:
    """Write the generated parts of the documents again.

    Returns:
        The documents that have changed.

    Raises:
        UserError: a file in `results/` is damaged, or a document has a part that nothing generates.
    """
    parts = generated_parts()
    changed = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        filled = fill(text, parts, shown(document))
        if filled != text:
            write_atomically(document, filled)
            changed.append(document)
    return changed


def take_results(output: Path, name: str) -> Path:
    """Write the scores of an experiment into `results/`.

    Args:
        output: output folder of the experiment.
        name: name of its plan in `configs/plans`.

    Returns:
        The file.

    Raises:
        UserError: there is no such plan, or no training is done.
    """
    plan, file = read_plan(PROJECT / f"configs/plans/{name}.yaml"), RESULTS / f"{name}.json"
    baselines = read_json(file, dict, "remove it").get("baselines", {}) if file.is_file() else {}
    keep_results(plan, (_SOURCE, *plan.unseen), output, file, baselines)
    return file


def generated_parts() -> dict[str, str | None]:
    """Return the text of every generated part by its name; None for one that needs more seeds than there are."""
    results = kept_results(RESULTS / "readme.json")
    parts = {"demo": _demo_table(results), "seeds": _seeds_part(results) if len(results.seeds) > 1 else None}
    for name in ("full", "adapters"):
        content = read_json(RESULTS / f"{name}.json", dict, "take it from the history of the repository")
        parts[name] = _summary_table(content)
        parts[f"{name} differences"] = _summary_differences(content)
    return parts


def conclusion(results: Results) -> str:
    """Return the sentence about the gain of joint training; "better" only where an interval excludes zero."""
    differences = _differences(results)
    gain, longer = differences["joint", "frozen"], differences["joint", "longer"]
    sentence = (
        f"In this miniature, joint training is {_words(gain)} the warm-up, and {_words(longer)} as many more "
        "iterations on the source alone"
    )
    if verdict(gain) == "better" and verdict(longer) != "better":
        return f"{sentence}: its gain over the warm-up is not attributable to the generated images."
    return f"{sentence}."


def _words(difference: Difference) -> str:
    found = verdict(difference)
    return f"{found} than" if found in ("better", "worse") else "not shown to be better or worse than"


def _demo_table(results: Results) -> str:
    """The table that `make demo` prints: the first seed."""
    rows = [[_BASELINES[name], *_cells(results, scores)] for name, scores in results.baselines.items()]
    for key, label in _DEMO.items():
        cells = _cells(results, {name: scores["mIoU"] for name, scores in results.scores[key][1].items()})
        rows.append([label, *cells[:-1], f"**{cells[-1]}**" if label.startswith("**") else cells[-1]])
    return markdown_table(["mIoU in %", *_headings(results)], rows)


def _cells(results: Results, miou: Mapping[str, float]) -> list[str]:
    values = [*(miou[name] for name in results.test_sets), fmean(miou[name] for name in results.unseen)]
    return [f"{value:.2f}" for value in values]


def _seeds_part(results: Results) -> str:
    """The tables over all seeds, with their sentences."""
    count = _NUMBERS.get(len(results.seeds), str(len(results.seeds)))
    paragraphs = [
        f"Mean and standard deviation over {count} seeds of these rows and two more "
        "(`projects/minicity/configs/plans/readme.yaml`):",
        _seeds_table(results),
        "The mean mIoU of the five unseen domains changes as follows:",
        _comparison_table(results),
        conclusion(results),
    ]
    return "\n\n".join(each if each.startswith("|") else textwrap.fill(each, _WIDTH) for each in paragraphs)


def _seeds_table(results: Results) -> str:
    """Mean and standard deviation over all seeds."""
    rows = []
    for key, label in _ROWS.items():
        runs = results.scores[key].values()
        columns = [[run[name]["mIoU"] for run in runs] for name in results.test_sets]
        columns.append([mean_over(run, results.unseen) for run in runs])
        rows.append([label, *(_plus_minus(column) for column in columns)])
    return markdown_table(["mIoU in %", *_headings(results)], rows)


def _plus_minus(values: Sequence[float], digits: int = 1) -> str:
    summary = summarize(values)
    deviation = "" if math.isnan(summary.std) else f" ± {summary.std:.{digits}f}"
    return f"{summary.mean:.{digits}f}{deviation}"


def _headings(results: Results) -> list[str]:
    names = [name.removeprefix("minicity_").removesuffix("_val") for name in results.test_sets]
    return [*(f"{name} (source)" if name == "sim" else name for name in names), "unseen mean"]


def _differences(results: Results) -> dict[tuple[str, str], Difference]:
    return dict(zip(results.comparisons, results.differences(), strict=True))


def _comparison_table(results: Results) -> str:
    differences = _differences(results)
    header = ["comparison", "difference in mIoU", "95 % interval", ""]
    rows = [
        [label, f"{each.mean:+.2f}", _interval(each), verdict(each)]
        for pair, label in _COMPARISONS.items()
        if (each := differences[pair])
    ]
    return markdown_table(header, rows)


def _interval(difference: Difference) -> str:
    return f"{difference.low:+.2f} to {difference.high:+.2f}" if difference.has_interval else "-"


def _summary_table(content: Mapping[str, Any]) -> str:
    """Means that were kept of an experiment whose runs are not: one decimal, and the spread of the unseen mean."""
    rows = [
        [row["title"], *row.get("about", []), *(f"{value:.1f}" for value in row["means"]),
         f"{row['unseen'][0]:.2f} ± {row['unseen'][1]:.2f}"]
        for row in content["rows"]
    ]  # fmt: skip
    return markdown_table(["", *content["columns"], "unseen mean"], rows)


def _summary_differences(content: Mapping[str, Any]) -> str:
    """Differences of an experiment whose runs are not kept: intervals of mIoU from those of each seed."""
    header = ["difference", "mIoU ± 95 % interval", "each seed", "verdict on mIoU"]
    header += ["frequency-weighted IoU ± 95 % interval", "verdict on frequency-weighted IoU"]
    rows = []
    for each in content["differences"]:
        values: list[float] = each["mIoU"]
        miou = paired_difference("", "", dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
        mean, reach = each["fwIoU"]
        weighted = Difference("", "", mean, count=len(values), low=mean - reach, high=mean + reach)
        rows.append(
            [
                each["title"],
                f"{each.get('mean', miou.mean):+.2f} ± {(miou.high - miou.low) / 2:.2f}",
                ", ".join(f"{value:.2f}" for value in values),
                verdict(miou),
                f"{mean:+.2f} ± {reach:.2f}",
                verdict(weighted),
            ]
        )
    return markdown_table(header, rows)
