"""List of the packages in the wheel: `pyproject.toml` can search for packages or name some of them, but not both."""

from setuptools import find_namespace_packages, setup

setup(packages=[*find_namespace_packages(include=["clouds", "clouds.*"]), "clouds.configs"])
