"""Files of the evaluations of a run, see `clouds.evaluation.files`: what was evaluated, and where its files are."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import dataset_names
from clouds.data.protocols import name_of, protocol_names
from clouds.engine.hooks.evaluation import Results
from clouds.engine.run.metrics import stated_protocol
from clouds.engine.run.output_folder import free_path
from clouds.engine.run.record import code_version
from clouds.evaluation.files import FOLDER, ImageCounts, write_evaluation


@dataclass(frozen=True)
class Evaluated:
    """Weights and data that an evaluation scores.

    Attributes:
        data: digest of the files of each test set.
        iterations: number of iterations that the weights were trained for; None if it is not known.
        weights: path or URL of their file, "" for none; None for the state of a training.
        digests: ``weights_sha256`` as in the ending of ``run.json``, and ``tower_sha256`` if it is known.
    """

    data: Mapping[str, str]
    iterations: int | None
    weights: str | None
    digests: Mapping[str, str]


def write_files(
    cfg: CfgNode,
    evaluated: Evaluated,
    seed: int,
    images: Mapping[str, int],
    results: Results,
    measured: Sequence[ImageCounts],
) -> Path:
    """Write the files of an evaluation to its folder in ``OUTPUT_DIR/evaluations``. Called by the main process only.

    Args:
        cfg: config of the evaluation.
        evaluated: weights and data.
        seed: seed of the model.
        images: number of images of each data set.
        results: scores.
        measured: counts of each data set and protocol.

    Returns:
        The folder.

    Raises:
        WriteError: a file cannot be written.
    """
    now = datetime.datetime.now().astimezone()
    about = {
        "protocol": stated_protocol(cfg),
        "protocols": [name_of(name) for name in protocol_names(cfg)],
        "commit": code_version(),
        "seed": seed,
        "iteration": evaluated.iterations,
        "weights": evaluated.weights or "",
        **evaluated.digests,
        "time": now.isoformat(timespec="seconds"),
        "train": dataset_names(cfg.DATASETS.TRAIN),
        "select_on": cfg.TEST.SELECT_ON,
        "data": dict(evaluated.data),
        "images": dict(images),
    }
    folder = Path(cfg.OUTPUT_DIR) / FOLDER
    if evaluated.weights is None:
        own = folder / f"{evaluated.iterations:07d}"
    else:
        own = free_path(folder / f"{now:%Y%m%d-%H%M%S}")
    write_evaluation(own, about, results, measured)
    return own
