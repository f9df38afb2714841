"""Generated parts of documents: text between two comments, tables in Markdown, and the scores that they are made of.

In a document, a generated part stands between `<!-- results: NAME -->` and `<!-- end -->`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clouds.engine.run.metrics import read_scores
from clouds.engine.run.record import read_record
from clouds.errors import UserError
from clouds.experiments.plan import Plan, Variant, run_folder
from clouds.experiments.results import Results, read_run
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.json_files import read_json

METRICS = ("mIoU", "fwIoU")
"""Scores that are kept."""

_DIGITS = 3
_COMMIT = 10  # characters
_PART = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(^<!-- end -->$)", re.DOTALL | re.MULTILINE)
_START = "<!-- results: "
_REMEDY = "write it again from the output folder of the experiment"


def fill(text: str, parts: Mapping[str, str | None], name: str) -> str:
    """Return a document with its generated parts replaced.

    Args:
        text: the document.
        parts: name of a part -> its lines, without a newline at the end; None: the part stays.
        name: name of the document, for messages.

    Raises:
        UserError: a part has no text, or its end is missing.
    """
    found = [each[2] for each in _PART.finditer(text)]
    if text.count(_START) != len(found):
        raise UserError(f"{name} has a part `{_START}NAME -->` without its end: add a line `<!-- end -->`.")
    for part in found:
        if part not in parts:
            raise UserError(f"{name} has a part {part}, which nothing generates: there are {', '.join(parts)}.")

    def filled(part: re.Match[str]) -> str:
        content = parts[part[2]]
        return part[0] if content is None else f"{part[1]}{content}\n{part[3]}"

    return _PART.sub(filled, text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, without a newline at the end."""
    lines = ["|".join(["", *(f" {cell} " if cell else " " for cell in row), ""]) for row in (header, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def keep_results(
    plan: Plan, test_sets: Sequence[str], output: Path, file: Path, baselines: Mapping[str, Any] | None = None
) -> None:
    """Write the scores of the trainings of a plan that are done into a small JSON file.

    Args:
        plan: the plan.
        test_sets: names of the test sets.
        output: output folder of the experiment.
        file: file to write.
        baselines: name -> test set -> mIoU of the baselines, for an experiment that has not measured them.

    Raises:
        UserError: no training is done, or a file of the experiment is damaged.
    """
    rows = {}
    for each in plan.variants:
        folders = {seed: run_folder(output, each.key, seed) for seed in plan.seeds}
        done = {seed: folder for seed, folder in folders.items() if read_scores(folder / "metrics.json")}
        scores = {str(seed): _kept(read_run(folder, test_sets), test_sets) for seed, folder in done.items()}
        rows[each.key] = {"title": each.title, "scores": scores}
    first = next((run_folder(output, key, int(seed)) for key, row in rows.items() for seed in row["scores"]), None)
    if first is None:
        raise UserError(f"No training in {output} is done: name the output folder of the experiment.")
    record = read_record(first)[-1]
    content = {
        "title": plan.title,
        "protocol": _protocol(first),
        "commit": str(record.get("code", {}).get("commit", ""))[:_COMMIT],
        "machine": {
            key: value for key, value in record.get("machine", {}).items() if key in ("cpus", "threads", "gpus")
        },
        "test_sets": list(test_sets),
        "unseen": list(plan.unseen),
        "compare": [list(pair) for pair in plan.comparisons],
        "baselines": _measured_baselines(output) or baselines or {},
        "rows": rows,
    }
    make_folder(file.parent)
    write_atomically(file, json.dumps(content, indent=1) + "\n")


def kept_results(file: Path) -> Results:
    """Return the results in a file that `keep_results` has written.

    Raises:
        UserError: the file cannot be read, or lacks something.
    """
    content = read_json(file, dict, _REMEDY)
    try:
        rows: Mapping[str, Any] = content["rows"]
        scores = {key: {int(seed): run for seed, run in row["scores"].items()} for key, row in rows.items()}
        return Results(
            variants=[Variant(key, row["title"], Path()) for key, row in rows.items()],
            seeds=sorted({seed for runs in scores.values() for seed in runs}),
            test_sets=content["test_sets"],
            unseen=content["unseen"],
            scores=scores,
            baselines=content["baselines"],
            comparisons=[(one, other) for one, other in content["compare"]],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} has no results ({error!r}): {_REMEDY}.") from error


def _kept(run: Mapping[str, Mapping[str, float]], test_sets: Sequence[str]) -> dict[str, dict[str, float]]:
    return {name: {score: round(run[name][score], _DIGITS) for score in METRICS} for name in test_sets}


def _protocol(folder: Path) -> str:
    """The protocol that a training states in its log; empty if it states none."""
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    stated = re.findall(r"^protocol (.+), commit ", text, re.MULTILINE)
    return stated[-1] if stated else ""


def _measured_baselines(output: Path) -> dict[str, dict[str, float]]:
    """The baselines that an experiment has measured; none if it has not ended."""
    file = output / "scores.json"
    content = read_json(file, dict, "run the experiment again") if file.is_file() else {}
    return {
        name: {each: round(score, _DIGITS) for each, score in scores.items()}
        for name, scores in content.get("baselines", {}).items()
    }
