"""Training curves on Weights & Biases, for those who name a project in ``WANDB.PROJECT``."""

import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from clouds.d2 import CfgNode, get_event_storage
from clouds.engine.record import read_record
from clouds.errors import UserError


def check_wandb(cfg: CfgNode) -> None:
    """`UserError` if a W&B project is named and wandb is not installed."""
    if not cfg.WANDB.PROJECT:
        return
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # without origin: the folder "wandb" that an earlier run left here
        raise UserError(
            f"WANDB.PROJECT is {cfg.WANDB.PROJECT!r}, but wandb is not installed: pip install wandb, "
            "or leave WANDB.PROJECT empty."
        )


class WandbWriter:
    """Sends the scalars that are new in the open event storage, a row for each iteration.

    A resumed training goes on in its own W&B run.
    """

    def __init__(
        self, project: str, name: str, config: dict[str, Any], *, folder: str, run_id: str | None, window_size: int = 20
    ) -> None:
        """
        Args:
            project: of W&B.
            name: of the run; W&B makes one up for an empty name.
            config: the settings that W&B shows.
            folder: for W&B's own files.
            run_id: the same for all parts of one training.
            window_size: noisy scalars are medians over so many iterations.
        """
        import wandb  # an optional dependency, and seconds to import

        self._run = wandb.init(
            project=project, name=name or None, config=config, dir=folder, id=run_id, resume="allow" if run_id else None
        )
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Send what came since the last call."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                rows[iteration][name] = value
        for iteration, row in sorted(rows.items()):  # W&B drops what is behind its newest step
            self._run.log(row, step=iteration)
        self._last_write = max(rows, default=self._last_write)

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


def build_wandb_writer(cfg: CfgNode) -> WandbWriter:
    """The writer of a training whose record lies in ``OUTPUT_DIR``."""
    trainings = [entry["training"] for entry in read_record(Path(cfg.OUTPUT_DIR)) if entry["training"]]
    return WandbWriter(
        cfg.WANDB.PROJECT,
        cfg.WANDB.NAME,
        yaml.safe_load(cfg.dump()),
        folder=cfg.OUTPUT_DIR,
        run_id=trainings[-1] if trainings else None,
    )
