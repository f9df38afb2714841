"""Rows of ``metrics.json``, the record of a training: which there are, and how a resumed training repairs it.

A row is a JSON object with an ``iteration``, an integer of at least 0, and finite numbers by name. Losses have the
iteration that they were computed in, and an evaluation after this iteration is in the same row. An evaluation before
the first or after the last iteration has a row of its own, without losses. A line that is no such row is skipped: the
end of a file that is being written, or the line of another program. In a row, what is not a number is skipped.
"""

import datetime
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clouds.config.settings import plain_settings
from clouds.d2 import CfgNode
from clouds.data.protocols import main_protocol, name_of
from clouds.evaluation.by_protocol import SEM_SEG
from clouds.utils.atomic import writing
from clouds.utils.jsonl import Line, Row, last_row, scan_lines, valid_rows, write_rows
from clouds.utils.values import is_integer, is_number

LOSS = "total_loss"
"""Name of the scalar that every iteration of a training has."""


class Recorded(NamedTuple):
    """Rows of a file about the state of a network after a number of iterations.

    Attributes:
        losses: whether there is a row with the losses of the last of these iterations.
        scores: whether there is a row with scores of this state.
    """

    losses: bool = False
    scores: bool = False


def iterations_before(row: Row) -> int:
    """Return the number of iterations after which the network was in the state that a row describes."""
    evaluation = LOSS not in row and any(map(is_score, row))
    iteration: int = row["iteration"]
    return iteration if evaluation else iteration + 1


def is_score(name: str) -> bool:
    """Return whether a scalar is a score of an evaluation, ``<test set>/<task>/<metric>``."""
    return name.count("/") > 1


def is_timing(name: str) -> bool:
    """Return whether a scalar is a duration, which differs between equal runs."""
    return name.endswith(("time", "_seconds"))


def conditions(settings: Mapping[str, Any]) -> str:
    """Return what an evaluation adds to its protocols, as a suffix of their names; "" with the defaults.

    Args:
        settings: value of each config key.

    Returns:
        Text such as " (TEST.WINDOW 512, TEST.AUG)".
    """
    facts = [f"TEST.WINDOW {settings['TEST.WINDOW']}"] if settings.get("TEST.WINDOW") else []
    if facts and settings.get("TEST.STRIDE"):
        facts.append(f"TEST.STRIDE {settings['TEST.STRIDE']}")
    if settings.get("TEST.AUG.ENABLED"):
        facts.append("TEST.AUG")
    return f" ({', '.join(facts)})" if facts else ""


def stated_protocol(cfg: CfgNode) -> str:
    """Return the name of the main protocol of a config, with `conditions`."""
    return main_protocol(cfg) + conditions(plain_settings(cfg))


def recorded_protocol(settings: Mapping[str, Any]) -> str:
    """Return the name of the main protocol in a recorded config; "" if it names none.

    Args:
        settings: value of each config key.
    """
    main, *_ = settings.get("TEST.PROTOCOLS") or [settings.get("TEST.PROTOCOL", "")]
    return name_of(main)


def record_evaluation(cfg: CfgNode, results: Mapping[str, Any], weights: str, iteration: int | None) -> None:
    """Add the results of ``--eval-only`` to ``OUTPUT_DIR/metrics_eval.json``, one row for each evaluation.

    The scores have the names that they have in ``metrics.json``. A damaged line of the file is removed.

    Args:
        cfg: config of the evaluation.
        results: ``{dataset: {task: {metric: percent}}}``; a score that is not finite is left out.
        weights: path or URL of the weights; "" for none.
        iteration: last iteration of their training; None if it is not known.
    """
    about = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "weights": weights,
        "protocol": stated_protocol(cfg),
        **({} if iteration is None else {"iteration": iteration + 1}),
    }
    path = Path(cfg.OUTPUT_DIR) / "metrics_eval.json"
    scores = {name: score for name, score in flatten(results).items() if math.isfinite(score)}
    write_rows(path, [*valid_rows(path), about | scores])


def read_training(path: Path) -> list[Row]:
    """Return the rows of the newest training in a ``metrics.json``; none if there is no such file."""
    return [{k: v for k, v in row.items() if is_number(v)} for row, _ in _newest_training(scan_lines(path))]


def read_scores(path: Path, iterations: int | None = None) -> dict[str, dict[str, float]]:
    """Return the scores of an evaluation of the newest training in a ``metrics.json``.

    Args:
        path: path of the file.
        iterations: number of iterations that the network was trained for; default: the evaluation that ends the
            training.

    Returns:
        Test set -> name of a score -> percent; a score without a value is missing. Empty if there is no such
        evaluation; by default, if the last row is none: the training still runs or was interrupted.
    """
    return scores_of(read_evaluation(path, iterations))


def read_evaluation(path: Path, iterations: int | None = None) -> Row:
    """Return the row with the scores that `read_scores` returns; an empty one if there is none."""
    rows = read_training(path)
    if iterations is not None:
        rows = [row for row in rows if any(map(is_score, row)) and iterations_before(row) == iterations]
    return (rows or [{}])[-1]


def final_row(folder: Path) -> tuple[Row, bool]:
    """Return the row with the final scores of an output folder.

    Args:
        folder: output folder of a run.

    Returns:
        The row at the end of the newest training or, if it has no scores, that of the newest evaluation, an empty one
        without; and whether it is that of the training.
    """
    row = read_evaluation(folder / "metrics.json")
    if scores_of(row):
        return row, True
    return (valid_rows(folder / "metrics_eval.json") or [{}])[-1], False


def scores_of(row: Row, task: str = SEM_SEG) -> dict[str, dict[str, float]]:
    """Return the scores of a task in a row, as `read_scores`; by default those by the main protocol."""
    scores: dict[str, dict[str, float]] = {}
    for key, value in row.items():
        name, kind, score = (*key.split("/", 2), "", "")[:3]
        if kind == task and is_number(value):
            scores.setdefault(name, {})[score] = float(value)
    return scores


def tasks_of(row: Row) -> list[str]:
    """Return the tasks that a row has scores of, see `task_name`."""
    return list(dict.fromkeys(key.split("/")[1] for key in row if is_score(key)))


def newest_iteration(path: Path) -> int:
    """Return the iteration of the last row of a ``metrics.json`` that may be large and still be written; 0 without."""
    row = last_row(path) or {}
    return row["iteration"] if _is_iteration(row.get("iteration")) else 0


def repair(path: Path, start: int, test_sets: Sequence[str]) -> Recorded:
    """Remove the rows of iteration `start` and later from a ``metrics.json``, and damaged lines at its end.

    The file is shortened in one step and in place, since a writer may have it open. Only rows of the newest training in
    the file are considered. With `start` 0, all of them are removed: the training starts from its beginning again.

    Args:
        path: path of the file; it need not exist.
        start: number of iterations after which the training is continued.
        test_sets: names of the test sets.

    Returns:
        What the file has about the state after `start` iterations.
    """
    if not path.is_file():
        return Recorded()
    lines = [line for line in scan_lines(path) if line.is_complete]
    rows = _newest_training(lines)
    end = max((line.end for line in lines), default=0)
    end = min([end, *(line.start for row, line in rows if start == 0 or iterations_before(row) > start)])
    kept = max((line.end for _, line in rows if line.end <= end), default=end)
    end = min([end, *(line.start for line in lines if line.row is None and line.start >= kept)])
    with writing(path):
        os.truncate(path, end)
    here = [row for row, line in rows if iterations_before(row) == start and line.end <= end]
    return Recorded(
        losses=any(LOSS in row for row in here),
        scores=any(name.startswith(f"{each}/") for row in here for name in row for each in test_sets),
    )


def flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Convert ``{"a": {"b": 1}}`` to ``{"a/b": 1.0}``."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": float(value)}
    return flat


def _newest_training(lines: Iterable[Line]) -> list[tuple[Row, Line]]:
    found: list[tuple[Row, Line]] = []
    for line in lines:
        row = line.row
        if row is None or not _is_iteration(row.get("iteration")):
            continue
        before = iterations_before(row)
        if before == 0 or (found and before < iterations_before(found[-1][0])):
            found.clear()  # training begins anew
        found.append((row, line))
    return found


def _is_iteration(value: object) -> bool:
    return is_integer(value, high=2**53 - 1)
