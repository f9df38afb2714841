"""`DatasetCatalog` and `MetadataCatalog`: the registered data sets and their metadata."""

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _DatasetCatalog(UserDict[str, Callable[[], list[dict[str, Any]]]]):
    """Mapping from the name of a data set to a function without arguments that returns its records."""

    def register(self, name: str, func: Callable[[], list[dict[str, Any]]]) -> None:
        """Register the data set `name`; AssertionError if the name is taken."""
        assert callable(func), f"The loader of data set {name!r} must be a function"
        assert name not in self, f"Data set {name!r} is already registered"
        self[name] = func

    def get(self, name: str) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the records of the data set `name`; KeyError if it is not registered."""
        if name not in self:
            raise KeyError(f"Dataset {name!r} is not registered. Registered are: {', '.join(self)}")
        return self[name]()

    def list(self) -> list[str]:
        """Return the registered names in the order of registration."""
        return [*self]

    def remove(self, name: str) -> None:
        """Remove the data set `name`."""
        self.pop(name)


class Metadata(types.SimpleNamespace):
    """Metadata of one data set, as attributes. An attribute cannot change its value once it is set (AssertionError)."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"The metadata of data set {self.name!r} has no {key!r}; it has {sorted(self.__dict__)}")

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == val, f"{key!r} in the metadata of data set {self.name!r} is {old!r}; it cannot become {val!r}"
        super().__setattr__(key, val)

    def set(self, **kwargs: Any) -> "Metadata":
        """Set several attributes and return self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self


class _MetadataCatalog(UserDict[str, Metadata]):
    """Mapping from the name of a data set to its `Metadata`."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """Return the `Metadata` of the data set `name`; created empty on first access."""
        assert name, "A data set needs a name"
        return self.setdefault(name, Metadata(name=name))

    def list(self) -> list[str]:
        """Return the names that have metadata, in the order of creation."""
        return [*self]

    def remove(self, name: str) -> None:
        """Remove the metadata of the data set `name`."""
        self.pop(name)


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
