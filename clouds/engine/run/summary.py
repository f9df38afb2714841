"""Final scores of runs, from the files in their output folders, as one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clouds.config.settings import read_settings
from clouds.data.datasets.catalog import dataset_names
from clouds.engine.run.metrics import read_scores, scores_of
from clouds.engine.run.record import Kind, read_record
from clouds.errors import UserError
from clouds.utils.jsonl import valid_rows


class Summary(NamedTuple):
    """Final scores of a run.

    Attributes:
        folder: its output folder.
        trained: names of its training sets.
        seed: its seed.
        protocol: protocol of its evaluation.
        scores: test set -> mIoU in percent.
    """

    folder: Path
    trained: list[str]
    seed: str
    protocol: str
    scores: dict[str, float]


def summarize(folder: Path) -> Summary:
    """Return the scores at the end of the newest training in an output folder, else those of its newest evaluation.

    Raises:
        UserError: the folder has neither, or a file cannot be read.
    """
    trains = bool(scores := read_scores(folder / "metrics.json"))
    if not trains:
        scores = scores_of((valid_rows(folder / "metrics_eval.json") or [{}])[-1])
    entries = [entry for entry in read_record(folder) if (entry["kind"] != Kind.EVALUATION) == trains]
    if not scores or not entries:
        raise UserError(
            f"{folder} has no final scores: give the OUTPUT_DIR of a training that ended with an evaluation, or of one."
        )
    settings = read_settings(folder / entries[-1]["config"])
    return Summary(
        folder,
        dataset_names(settings.get("DATASETS.TRAIN", ())),
        str(settings.get("SEED", "")),
        str(settings.get("TEST.PROTOCOL", "")),
        {name: metrics["mIoU"] for name, metrics in scores.items() if "mIoU" in metrics},
    )


def format_summaries(summaries: Sequence[Summary]) -> str:
    """Return a Markdown table with a row for each run and a column for each test set; mIoU in percent."""
    names = list(dict.fromkeys(name for each in summaries for name in each.scores))
    rows = [
        [
            str(each.folder).replace("|", r"\|"),
            ", ".join(each.trained),
            each.seed,
            each.protocol,
            *(f"{each.scores[name]:.2f}" if name in each.scores else "-" for name in names),
        ]
        for each in summaries
    ]
    header = ["mIoU in %", "trained on", "seed", "protocol", *names]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
