"""Gradient accumulation: a batch in several parts, one forward and backward pass each, with the result of the batch.

The losses of a part are sums over its images divided by the normalizers of the whole batch, so that the losses, and the
gradients, of all parts add up to those of the batch. For this, the dict of each image holds the canvas of the batch and
the numbers of targets of the images in the other parts.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from clouds.d2 import CfgNode, comm
from clouds.engine.parallel import trained_batch_norms
from clouds.errors import UserError
from clouds.modeling.structures import ImageDict, count_targets

logger = logging.getLogger(__name__)


def check_accumulation(cfg: CfgNode, model: nn.Module) -> None:
    """Check whether a batch can be divided into ``SOLVER.ACCUMULATION`` parts, and warn if that changes the result.

    Raises:
        UserError: a process has fewer images than parts, or the architecture does not take parts of a batch.
    """
    parts, images = cfg.SOLVER.ACCUMULATION, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if parts == 1:
        return
    if parts > images:
        raise UserError(
            f"SOLVER.ACCUMULATION is {parts}, but a process has {images} image(s) of a batch: set it to {images} or "
            "less, or SOLVER.IMS_PER_BATCH higher."
        )
    if not hasattr(model, "canvas"):
        raise UserError(
            f"{type(model).__name__} (MODEL.META_ARCHITECTURE) has no canvas, which SOLVER.ACCUMULATION uses: set it "
            "to 1, or derive the architecture from CLOUDS."
        )
    if norms := trained_batch_norms(model):
        logger.warning(
            f"{len(norms)} batch norms are trained ({norms[0]}, ...): each normalizes one of the {parts} parts of a "
            "batch (SOLVER.ACCUMULATION) at a time, so that the result is not that of the whole batch"
        )


def divide(batch: Sequence[ImageDict], parts: int, model: Any) -> list[list[ImageDict]]:
    """Divide a batch into parts of consecutive images, whose losses add up to those of the batch.

    All processes must call this together.

    Args:
        batch: image dicts with `instances` or `sem_seg`, at least as many as parts.
        parts: number of parts; their sizes differ by at most one.
        model: model in training; its method `canvas` returns (H, W), the padded size of the whole batch.

    Returns:
        The parts, with `canvas` and `other_targets` in every dict, and `features` of its part alone.
    """
    canvas, counts = model.canvas(batch), count_targets(batch)
    bounds = [len(batch) * number // parts for number in range(parts + 1)]
    divided = []
    for start, end in pairwise(bounds):
        entries: ImageDict = {"canvas": canvas, "other_targets": counts[:start] + counts[end:]}
        if "features" in batch[0]:
            entries["features"] = {name: maps[start:end] for name, maps in batch[0]["features"].items()}
        divided.append([{**x, **entries} for x in batch[start:end]])
    return divided
