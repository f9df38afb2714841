"""The library open_clip, without transformers until something of it is used.

``import open_clip`` imports transformers in two of its modules, for text towers of Hugging Face and for captions. That
takes three quarters of its time, and CLIP needs neither. Here, these two modules get stand-ins for the names of
transformers: the first call or attribute of one imports the library, so all models of open_clip work as usual. Only
the import statements of these two modules are affected, not those of other modules or threads, and nothing stays in
`sys.modules`. Import open_clip from here::

    from clouds.utils.open_clip import open_clip
"""

import builtins
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_LIBRARY = "transformers"
_MODULES = ("open_clip.hf_model", "open_clip.coca_model")


class LateName:
    """Stand-in for a class of a module.

    The module is imported when the stand-in is called, an attribute is read, or `isinstance` checks a value against it.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _get(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy, which has no attributes yet
            raise AttributeError(name)
        return getattr(self._get(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get()(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._get())


class LateModule(ModuleType):
    """Stand-in for a module, with a `LateName` for each name of it; others, such as `__version__`, import it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return getattr(importlib.import_module(self.__name__), name)
        return LateName(self.__name__, name)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Import a module as `__import__` does, or return a stand-in for one of transformers."""
    if level == 0 and name.partition(".")[0] == _LIBRARY:
        return LateModule(name if fromlist else _LIBRARY)
    return __import__(name, globals, locals, fromlist or (), level)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        # The import statements of a module call the `__import__` among its builtins.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


class _Finder:
    """Finds the modules of `_MODULES`, which `_Loader` loads."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _MODULES else None
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        spec.loader = _Loader(name, spec.loader.path)
        return spec


@contextmanager
def _without_transformers() -> Iterator[None]:
    if _LIBRARY in sys.modules or find_spec(_LIBRARY) is None:
        yield
        return
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)


with _without_transformers():
    import open_clip

__all__ = ["open_clip", "without_warnings"]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop what open_clip logs, such as a warning about a model without weights, for callers that load them later."""

    def is_other(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root = logging.getLogger()  # open_clip has no logger of its own
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)
