"""Batches on their way from the workers to the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate

from clouds.data.datasets.record import Record
from clouds.errors import UserError


class Failure:
    """A UserError on its way out of a worker; torch would wrap the exception itself in the worker's traceback."""

    def __init__(self, message: str) -> None:
        self.message = message

    def samples(self) -> list[Record]:
        """Raise the error."""
        raise UserError(self.message)


@dataclass
class Batch:
    """A batch on its way to the model.

    Its tensors of one entry and one shape are one tensor. So a batch needs few shared files and few copies to a GPU,
    and images of one size are normalized together. Samples that share a tensor still share it afterwards.
    """

    records: list[Record]
    """The samples without their tensors."""
    stacks: list[tuple[str, list[list[int]], Tensor]]
    """Name of an entry and the tensors (B, ...) of one shape; for each of them the numbers of the samples that have it.
    """

    @classmethod
    def collate(cls, items: list[Record | list[Record] | Failure]) -> "Batch | Failure":
        """Collate samples, or lists of samples. If there are failures, return the first."""
        records = list[Record]()
        groups: dict[tuple[str, torch.Size, torch.dtype], dict[int, tuple[list[int], Tensor]]] = {}
        for item in items:
            if isinstance(item, Failure):
                return item
            for sample in item if isinstance(item, list) else [item]:
                for key, value in sample.items():
                    if isinstance(value, Tensor):
                        tensors = groups.setdefault((key, value.shape, value.dtype), {})
                        tensors.setdefault(id(value), ([], value))[0].append(len(records))
                records.append({key: value for key, value in sample.items() if not isinstance(value, Tensor)})
        stacks = [
            (key, [numbers for numbers, _ in tensors.values()], _stack([tensor for _, tensor in tensors.values()]))
            for (key, *_), tensors in groups.items()
        ]
        return cls(records, stacks)

    def pin_memory(self) -> "Batch":
        """Copy the tensors to page-locked memory, from which a GPU reads while the host goes on; torch calls it."""
        return Batch(self.records, [(key, owners, stack.pin_memory()) for key, owners, stack in self.stacks])

    def samples(self) -> list[Record]:
        """Return the samples; their tensors are views of the stacks."""
        samples = [dict(record) for record in self.records]
        for key, owners, stack in self.stacks:
            for numbers, tensor in zip(owners, stack, strict=True):
                for number in numbers:
                    samples[number][key] = tensor
        return samples


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    # In a worker, default_collate stacks into shared memory, so that there is no second copy.
    stacked: Tensor = tensors[0][None] if len(tensors) == 1 else default_collate([*tensors])
    return stacked
