"""`Instances`, the annotations of one image."""

from typing import Any


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
