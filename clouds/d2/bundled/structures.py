"""`ImageList`, a padded batch of images, and `Instances`, the annotations of one image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F


class ImageList:
    """Images of different sizes in one tensor, padded at the bottom and on the right.

    Attributes:
        tensor: (N, ..., H, W).
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    @staticmethod
    def from_tensors(tensors: Sequence[torch.Tensor], size_divisibility: int = 0) -> "ImageList":
        """Pad tensors (..., h, w) with zeros to a common size (H, W) and stack them.

        Args:
            tensors: images with equal leading dimensions.
            size_divisibility: H and W are multiples of this number; 0 means any size.
        """
        assert len(tensors) > 0, "A batch needs at least one image"
        leading = tensors[0].shape[:-2]
        assert all(t.shape[:-2] == leading for t in tensors), [tuple(t.shape) for t in tensors]
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        divisor = max(size_divisibility, 1)
        height, width = (-(-max(sides) // divisor) * divisor for sides in zip(*sizes, strict=True))
        padded = [F.pad(t, (0, width - w, 0, height - h)) for t, (h, w) in zip(tensors, sizes, strict=True)]
        return ImageList(torch.stack(padded).contiguous(), sizes)


class Instances:
    """Annotations of one image: named fields with one entry per instance.

    `instances.gt_classes = t` sets a field and `instances.gt_classes` reads it. All fields have equal length
    (AssertionError). Names that begin with an underscore are private attributes, not fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            setattr(self, name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
            return
        if self._fields:
            assert len(val) == len(self), f"Field {name!r} has {len(val)} entries, the others have {len(self)}"
        self._fields[name] = val

    def __getattr__(self, name: str) -> Any:
        # During unpickling and copying the object has no `_fields` yet; reading it here must not recurse.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"These Instances have no field {name!r}")
        return self._fields[name]

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Return new Instances whose tensors are converted by `Tensor.to(*args, **kwargs)`."""
        moved = {name: v.to(*args, **kwargs) if hasattr(v, "to") else v for name, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without a field have no length")
