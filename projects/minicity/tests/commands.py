"""Scripts of the repository as modules."""

import importlib.util
from types import ModuleType

from minicity.paths import REPOSITORY

ROOT = REPOSITORY


def script(path: str) -> ModuleType:
    """Load a script as a module; `path` is relative to the repository."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
