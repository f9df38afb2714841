"""Final scores of runs, from the files in their output folders, as one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clouds.config.settings import read_settings
from clouds.data.datasets.catalog import dataset_names
from clouds.engine.run.metrics import conditions, final_row, recorded_protocol, scores_of, tasks_of
from clouds.engine.run.record import Kind, read_record
from clouds.errors import UserError
from clouds.evaluation.by_protocol import SEM_SEG


class Summary(NamedTuple):
    """Final scores of a run by one protocol.

    Attributes:
        folder: its output folder.
        trained: names of its training sets.
        seed: its seed.
        protocol: name of the protocol, with `conditions`.
        scores: test set -> mIoU in percent.
    """

    folder: Path
    trained: list[str]
    seed: str
    protocol: str
    scores: dict[str, float]


def summarize(folder: Path) -> list[Summary]:
    """Return the scores at the end of the newest training in an output folder, else those of its newest evaluation.

    Returns:
        A summary for each protocol, the main one first.

    Raises:
        UserError: the folder has neither, or a file cannot be read.
    """
    row, trains = final_row(folder)
    entries = [entry for entry in read_record(folder) if (entry["kind"] != Kind.EVALUATION) == trains]
    if not scores_of(row) or not entries:
        raise UserError(
            f"{folder} has no final scores: give the OUTPUT_DIR of a training that ended with an evaluation, or of one."
        )
    settings = read_settings(folder / entries[-1]["config"])
    return [
        Summary(
            folder,
            dataset_names(settings.get("DATASETS.TRAIN", ())),
            str(settings.get("SEED", "")),
            (task.partition("@")[2] or recorded_protocol(settings)) + conditions(settings),
            {name: metrics["mIoU"] for name, metrics in scores_of(row, task).items() if "mIoU" in metrics},
        )
        for task in tasks_of(row)
        if task.partition("@")[0] == SEM_SEG
    ]


def format_summaries(summaries: Sequence[Summary]) -> str:
    """Return a Markdown table with a row for each summary and a column for each test set; mIoU in percent."""
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
