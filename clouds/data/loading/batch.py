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
    and images of one size are normalized together.
    """

    records: list[Record]
    """The samples without their tensors."""
    stacks: list[tuple[str, list[int], Tensor]]
    """Name of an entry, numbers of the samples that have it in this shape, and their tensors (B, ...)."""

    @classmethod
    def collate(cls, samples: list[Record | Failure]) -> "Batch | Failure":
        """Collate samples. If there are failures, return the first."""
        records, groups = list[Record](), dict[tuple[str, torch.Size, torch.dtype], tuple[list[int], list[Tensor]]]()
        for number, sample in enumerate(samples):
            if isinstance(sample, Failure):
                return sample
            records.append({key: value for key, value in sample.items() if not isinstance(value, Tensor)})
            for key, value in sample.items():
                if isinstance(value, Tensor):
                    numbers, tensors = groups.setdefault((key, value.shape, value.dtype), ([], []))
                    numbers.append(number)
                    tensors.append(value)
        stacks = [(key, numbers, _stack(tensors)) for (key, *_), (numbers, tensors) in groups.items()]
        return cls(records, stacks)

    def pin_memory(self) -> "Batch":
        """Copy the tensors to page-locked memory, from which a GPU reads while the host goes on; torch calls it."""
        return Batch(self.records, [(key, numbers, stack.pin_memory()) for key, numbers, stack in self.stacks])

    def samples(self) -> list[Record]:
        """Return the samples; their tensors are views of the stacks."""
        samples = [dict(record) for record in self.records]
        for key, numbers, stack in self.stacks:
            for number, tensor in zip(numbers, stack, strict=True):
                samples[number][key] = tensor
        return samples


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    # In a worker, default_collate stacks into shared memory, so that there is no second copy.
    stacked: Tensor = tensors[0][None] if len(tensors) == 1 else default_collate([*tensors])
    return stacked
