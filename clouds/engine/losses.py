"""Values of the losses of an iteration: their transfer from the device, their mean over the processes, failures."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clouds.errors import UserError
from clouds.modeling.distributed import gather_losses
from clouds.modeling.structures import ImageDict


class NonFiniteLoss(UserError, FloatingPointError):
    """A loss became NaN or infinite."""


def as_numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the values of scalar losses, in one transfer from the device."""
    return dict(zip(losses, torch.stack([loss.detach() for loss in losses.values()]).tolist(), strict=True))


def average_losses(
    batch: Sequence[ImageDict], values: dict[str, float], failure: str, *, iteration: int, remedy: str
) -> dict[str, float]:
    """Return the losses of the whole batch: their mean over the processes, which must call this together.

    Args:
        batch: this process's share of the batch.
        values: losses of this share; NaN or an infinite value is a failure.
        failure: description of another failure in this process; "" for none.
        iteration: number of the iteration, for the message.
        remedy: advice about a failure, for the message.

    Raises:
        NonFiniteLoss: a failure in some process; raised in all processes, with the images of that process.
    """
    bad = failure or ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
    files = ", ".join(str(sample["file_name"]) for sample in batch)
    means, failures = gather_losses(values, f"{bad} on {files}" if bad else "")
    if failures:
        raise NonFiniteLoss(f"Training stopped at iteration {iteration}: {'; '.join(failures)}; {remedy}.")
    return means
