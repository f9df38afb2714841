"""Folders of the project, independent of the working directory."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
"""The project's folder: `configs/`, `docs/`, `tools/`, `weights/` and the package."""

REPOSITORY = PROJECT.parents[1]
"""The checkout of CLOUDS that the project stands in."""


def shown(path: Path) -> str:
    """The path as it is written in commands and model cards: relative to the repository if it lies inside."""
    absolute = path.absolute()
    return absolute.relative_to(REPOSITORY).as_posix() if absolute.is_relative_to(REPOSITORY) else str(path)
