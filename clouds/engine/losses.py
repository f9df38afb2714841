"""Losses of an iteration: their mean over the processes, which stays on the device, and the report of a failure."""

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from clouds.d2 import comm
from clouds.errors import UserError
from clouds.modeling.structures import ImageDict


class NonFiniteLoss(UserError, FloatingPointError):
    """A loss became NaN or infinite."""


def mean_losses(losses: Mapping[str, Tensor], *, stop: bool = False) -> Tensor:
    """Return the losses of the whole batch: their mean over the processes, which must call this together.

    The host does not wait for the device.

    Args:
        losses: n scalars by name, of this process's share of the batch; the names are equal in all processes.
        stop: whether this process has been asked to stop. It travels with the losses, so that all processes stop after
            the same iteration.

    Returns:
        (n + 1,) float, equal in all processes: the losses in the order of `losses`, not finite where that of some
        process is not, and the share of the processes that have been asked to stop, 0..1.
    """
    values = torch.stack([loss.detach() for loss in losses.values()])
    values = torch.cat((values, values.new_full((1,), float(stop))))
    if comm.get_world_size() == 1:
        return values
    values = values.double()  # of a few float32 numbers, float64 holds the exact sum
    torch.distributed.all_reduce(values)
    return values / comm.get_world_size()


def describe_failure(losses: Mapping[str, Tensor]) -> str:
    """Name the losses of this process that are not finite; "" if all are."""
    values = {name: loss.item() for name, loss in losses.items()}
    return ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))


def stop_training(batch: Sequence[ImageDict], failure: str, *, iteration: int, remedy: str) -> NoReturn:
    """Raise the failures of all processes, which must call this together.

    Args:
        batch: this process's share of the batch.
        failure: description of the failure in this process; "" for none.
        iteration: number of the iteration, for the message.
        remedy: advice, for the message.

    Raises:
        NonFiniteLoss: always; in all processes, with the images of those that failed.
    """
    files = ", ".join(str(sample["file_name"]) for sample in batch)
    failures = filter(None, comm.all_gather(f"{failure} on {files}" if failure else ""))
    raise NonFiniteLoss(f"Training stopped at iteration {iteration}: {'; '.join(failures)}; {remedy}.")
