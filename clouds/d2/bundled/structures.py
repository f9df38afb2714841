"""`ImageList`, a padded batch, and `Instances`, equally long fields of one image."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F


class ImageList:
    """Images of several sizes in one tensor, padded at the bottom and on the right.

    Attributes:
        tensor: (N,...,H,W).
        image_sizes: (h,w) of each image before the padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Image `idx` without its padding, a view."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """The same batch with `tensor.to(...)`."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad tensors (...,h,w) of equal leading shape to one canvas (...,H,W) and stack them.

        `padding_constraints` may hold `square_size` (side of a square canvas) and `size_divisibility`, which then takes
        the place of the argument.
        """
        assert len(tensors) > 0, "A batch needs at least one image"
        leading = tensors[0].shape[:-2]
        assert all(t.shape[:-2] == leading for t in tensors), [tuple(t.shape) for t in tensors]
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        constraints = padding_constraints or {}
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        divisor = max(constraints.get("size_divisibility", size_divisibility), 1)
        height, width = (-(-side // divisor) * divisor for side in (height, width))
        padded = [
            F.pad(t, (0, width - w, 0, height - h), value=pad_value) for t, (h, w) in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded).contiguous(), sizes)


class Instances:
    """The instances of one image: named fields, one entry of each per instance.

    `instances.gt_classes = t` sets a field, `instances[index_or_mask]` picks instances; fields of different length are
    an AssertionError. Names that begin with an underscore are private attributes, not fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # While it is being unpickled or copied an object has no `_fields` yet, and asking for it must not recurse.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"These Instances have no field {name!r}")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; its length must be that of the others."""
        if self._fields:
            assert len(value) == len(self), f"Field {name!r} has {len(value)} entries, the others have {len(self)}"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drop a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """A field by its name; KeyError if there is none."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields themselves, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """New Instances whose fields went through their own `to(...)`, where they have one."""
        moved = {name: v.to(*args, **kwargs) if hasattr(v, "to") else v for name, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Instances":
        """New Instances with every field indexed by `item`; an int keeps the leading dimension, of length 1."""
        if isinstance(item, int) and not isinstance(item, bool):
            if not -len(self) <= item < len(self):
                raise IndexError(f"Instance {item} of {len(self)}")
            item = slice(item, None, len(self))
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without a field have no length")

    def __iter__(self) -> Any:
        raise NotImplementedError("Instances cannot be iterated; index them")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Join the instances of one image; tensors and lists are joined, other fields through their type's `cat`."""
        assert len(instance_lists) > 0, "Nothing to join"
        first = instance_lists[0]
        assert all(i.image_size == first.image_size for i in instance_lists), [i.image_size for i in instance_lists]
        if len(instance_lists) == 1:
            return first
        joined = Instances(first.image_size)
        for name, sample in first.get_fields().items():
            values = [i.get(name) for i in instance_lists]
            if isinstance(sample, torch.Tensor):
                joined.set(name, torch.cat(values, dim=0))
            elif isinstance(sample, list):
                joined.set(name, [*itertools.chain.from_iterable(values)])
            elif hasattr(type(sample), "cat"):
                joined.set(name, type(sample).cat(values))
            else:
                raise ValueError(f"Field {name!r} of type {type(sample).__name__} cannot be joined")
        return joined

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        count = len(self) if self._fields else 0
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"
