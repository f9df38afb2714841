"""Training curves on Weights & Biases (W&B), if ``WANDB.PROJECT`` is set."""

import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from clouds.d2 import CfgNode, get_event_storage
from clouds.engine.record import read_record
from clouds.errors import UserError


def check_wandb(cfg: CfgNode) -> None:
    """Check that wandb is installed if ``WANDB.PROJECT`` is set.

    Raises:
        UserError: it is not.
    """
    if not cfg.WANDB.PROJECT:
        return
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # a spec without origin is the folder "wandb" that an earlier run has left
        raise UserError(
            f"WANDB.PROJECT is {cfg.WANDB.PROJECT!r}, but wandb is not installed: pip install wandb, "
            "or leave WANDB.PROJECT empty."
        )


class WandbWriter:
    """Writer that sends the new scalars of the event storage to W&B, one row for each iteration.

    A resumed training continues its W&B run.
    """

    def __init__(
        self, project: str, name: str, config: dict[str, Any], *, folder: str, run_id: str | None, window_size: int = 20
    ) -> None:
        """
        Args:
            project: name of the W&B project.
            name: name of the W&B run; W&B chooses one if it is empty.
            config: config that W&B shows.
            folder: folder for the files of W&B.
            run_id: identifies the W&B run, so that a resumed training continues it; None for a new run.
            window_size: number of iterations whose median is sent for noisy scalars.
        """
        import wandb  # optional dependency

        self._run = wandb.init(
            project=project, name=name or None, config=config, dir=folder, id=run_id, resume="allow" if run_id else None
        )
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Send the scalars that were added since the last call."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                rows[iteration][name] = value
        for iteration, row in sorted(rows.items()):  # W&B ignores rows that are older than its newest step
            self._run.log(row, step=iteration)
        self._last_write = max(rows, default=self._last_write)

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


def build_wandb_writer(cfg: CfgNode) -> WandbWriter:
    """Build the writer of the training that is recorded in ``OUTPUT_DIR``."""
    trainings = [entry["training"] for entry in read_record(Path(cfg.OUTPUT_DIR)) if entry["training"]]
    return WandbWriter(
        cfg.WANDB.PROJECT,
        cfg.WANDB.NAME,
        yaml.safe_load(cfg.dump()),
        folder=cfg.OUTPUT_DIR,
        run_id=trainings[-1] if trainings else None,
    )
