"""`DatasetCatalog` and `MetadataCatalog`: names to loaders and to facts, refusing to be contradicted."""

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _DatasetCatalog(UserDict[str, Callable[[], list[dict[str, Any]]]]):
    """Data set name -> function without arguments that returns its records."""

    def register(self, name: str, func: Callable[[], list[dict[str, Any]]]) -> None:
        """Add a data set; a name that is taken is an AssertionError."""
        assert callable(func), f"The loader of data set {name!r} must be a function"
        assert name not in self, f"Data set {name!r} is already registered"
        self[name] = func

    def get(self, name: str) -> list[dict[str, Any]]:  # type: ignore[override]
        """Call the loader of `name` and return its records; an unknown name is a KeyError that lists the known ones."""
        if name not in self:
            raise KeyError(f"Dataset {name!r} is not registered. Registered are: {', '.join(self)}")
        return self[name]()

    def list(self) -> list[str]:
        """The registered names, in the order of registration."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget `name`."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"


class Metadata(types.SimpleNamespace):
    """Facts about one data set, as attributes. A fact is set once: another value for it is an AssertionError."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"The metadata of data set {self.name!r} has no {key!r}; it has {sorted(self.__dict__)}")

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == val, f"{key!r} in the metadata of data set {self.name!r} is {old!r}; it cannot become {val!r}"
        super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """A copy of all facts."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Set several facts; returns self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The fact `key`, or `default`."""
        return getattr(self, key, default)


class _MetadataCatalog(UserDict[str, Metadata]):
    """Data set name -> `Metadata`, made empty when first asked for."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The one `Metadata` of `name`."""
        assert name, "A data set needs a name"
        return self.setdefault(name, Metadata(name=name))

    def list(self) -> list[str]:
        """The names asked for so far."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget `name`."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
