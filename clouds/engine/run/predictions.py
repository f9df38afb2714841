"""Predictions of an evaluation for TensorBoard: one sheet for each test set, with a few of its images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clouds.d2 import EventStorage, MetadataCatalog, TensorboardXWriter
from clouds.engine.writers import OptionalWriter
from clouds.evaluation.display import Display
from clouds.visualization.sheet import comparison_sheet

_CELL = 320  # width of an image on a sheet in pixels

Displays = Mapping[str, Mapping[str, Display]]
"""Data set -> id of an image -> its small copies."""


def put_predictions(storage: EventStorage, displays: Displays) -> None:
    """Put a sheet for each data set into the event storage, ``predictions/<data set>``; its writers show it."""
    for name, of_set in displays.items():
        if of_set:
            metadata = MetadataCatalog.get(name)
            rows = [
                (image_id, [each.image.permute(1, 2, 0).numpy(), _array(each.truth), _array(each.prediction)])
                for image_id, each in of_set.items()
            ]
            sheet = comparison_sheet(
                ("image", "ground truth", "prediction"),
                rows,
                classes=metadata.stuff_classes,
                colors=metadata.stuff_colors,
                cell_width=_CELL,
            )
            storage.put_image(f"predictions/{name}", torch.from_numpy(np.array(sheet)).permute(2, 0, 1))


def write_predictions(folder: Path, displays: Displays, iterations: int) -> None:
    """Write the sheets to a TensorBoard file in a folder, and go on without if this fails.

    Args:
        folder: existing folder.
        displays: images of each data set.
        iterations: number of iterations that the weights were trained for.
    """
    if any(displays.values()):
        writer = OptionalWriter(TensorboardXWriter(str(folder)), f"The TensorBoard file in {folder}")
        with EventStorage(iterations) as storage:
            put_predictions(storage, displays)
            writer.write()
        writer.close()


def _array(labels: torch.Tensor | None) -> npt.NDArray[np.uint8] | None:
    return None if labels is None else labels.numpy()
