"""Writers of training curves: ``metrics.json``, and Weights & Biases (W&B) if ``WANDB.PROJECT`` is set."""

import importlib.util
import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from clouds.d2 import CfgNode, CommonMetricPrinter, TensorboardXWriter, get_event_storage
from clouds.engine.run.metrics import LOSS
from clouds.engine.run.record import current_run
from clouds.errors import UserError
from clouds.utils.atomic import OptionalOutput, append_file, writing
from clouds.utils.resources import install_command


class NewRows:
    """Collects the scalars of the event storage that were put since the last call, as rows of a record.

    There is one row for each iteration, and two for iteration 0 if an evaluation precedes it: the second has the
    losses. Once an iteration has its row, further scalars of this iteration are left out.
    """

    def __init__(self, window_size: int = 20) -> None:
        """
        Args:
            window_size: number of iterations whose median is returned for noisy scalars.
        """
        self._window_size = window_size
        self._newest = (-1, False)  # iteration of the newest row, and whether it has losses
        self._seen: dict[str, tuple[int, int]] = {}  # name -> iteration and number of its values

    def take(self) -> list[tuple[int, dict[str, float]]]:
        """Return (iteration, finite scalars by name) of every new row, oldest first."""
        storage = get_event_storage()
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            seen = (iteration, len(storage.history(name).values()))
            # JSON has no NaN.
            if seen != self._seen.get(name) and math.isfinite(value):
                rows[iteration][name] = value
            self._seen[name] = seen
        new = [(i, row) for i, row in sorted(rows.items()) if (i, LOSS in row) > self._newest]
        if new:
            iteration, row = new[-1]
            self._newest = (iteration, LOSS in row)
        return new


class MetricsWriter:
    """Writer that appends the new scalars to ``metrics.json`` as strict JSON, one row for each iteration.

    Every row is on the disk when `write` returns.
    """

    def __init__(self, path: Path, *, window_size: int = 20) -> None:
        """
        Args:
            path: path of the file, which is continued if it exists.
            window_size: number of iterations whose median is written for noisy scalars.

        Raises:
            WriteError: the file cannot be written.
        """
        self._path = path
        self._file = append_file(path)
        self._rows = NewRows(window_size)

    def write(self) -> None:
        """Append the scalars that were put since the last call."""
        lines = [json.dumps({**row, "iteration": i}, sort_keys=True, allow_nan=False) for i, row in self._rows.take()]
        if lines:
            with writing(self._path):
                self._file.write("".join(f"{line}\n" for line in lines).encode())
                self._file.flush()
                os.fsync(self._file.fileno())
                self._path.stat()  # a file that has been removed takes rows that nobody will read

    def close(self) -> None:
        """Close the file."""
        with writing(self._path):  # after a failed write, the rest of the row is still to be written
            self._file.close()


class OptionalWriter:
    """Writer of curves that are no part of the result: where they cannot be written, the training goes on without."""

    def __init__(self, writer: Any, name: str) -> None:
        """
        Args:
            writer: object with ``write`` and ``close``.
            name: name of the writer, for the warning.
        """
        self._writer = writer
        self._output = OptionalOutput(name)

    def write(self) -> None:
        """Call the writer, and log a warning the first time that it fails to write."""
        with self._output.attempt():
            self._writer.write()

    def close(self) -> None:
        """Close the writer."""
        with self._output.attempt():
            self._writer.close()


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
            f"WANDB.PROJECT is {cfg.WANDB.PROJECT!r}, but wandb is not installed: "
            f"{install_command('wandb')}, or leave WANDB.PROJECT empty."
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
        self._rows = NewRows(window_size)

    def write(self) -> None:
        """Send the scalars that were added since the last call."""
        for iteration, row in self._rows.take():  # in order: W&B ignores rows that are older than its newest step
            self._run.log(row, step=iteration)

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


def build_wandb_writer(cfg: CfgNode) -> WandbWriter:
    """Build the writer of the training that is recorded in ``OUTPUT_DIR``."""
    run = current_run(Path(cfg.OUTPUT_DIR))
    return WandbWriter(
        cfg.WANDB.PROJECT,
        cfg.WANDB.NAME,
        yaml.safe_load(cfg.dump()),
        folder=cfg.OUTPUT_DIR,
        run_id=run.id if run else None,
    )


def build_writers(cfg: CfgNode, max_iter: int) -> list[Any]:
    """Build the writers of a training: console, ``metrics.json``, TensorBoard and W&B if ``WANDB.PROJECT`` is set.

    Args:
        cfg: final config.
        max_iter: last iteration of the training, from which the console estimates the time that is left.
    """
    output = Path(cfg.OUTPUT_DIR)
    metrics = MetricsWriter(output / "metrics.json")
    curves = OptionalWriter(TensorboardXWriter(str(output)), f"The TensorBoard file in {output}")
    writers = [CommonMetricPrinter(max_iter), metrics, curves]
    if cfg.WANDB.PROJECT:
        writers.append(OptionalWriter(build_wandb_writer(cfg), f"The W&B folder in {output}"))
    return writers
