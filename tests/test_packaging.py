"""The wheel of the framework, built from a copy of this repository without a network."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("clouds", "projects", "tests/commands", "tools", "configs")
FILES = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "train_net.py", "tests/__init__.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("repository")
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "weights")
        )
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(copy / "dist")],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_framework_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"clouds"}
    files = (path for path in (ROOT / "clouds").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(ROOT).as_posix() for path in files} == {
        name for name in names if ".dist-info/" not in name
    }
    assert "clouds/py.typed" in names


def test_the_wheel_requires_what_requirements_txt_lists(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        requires = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist")
    assert requires is not None
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    listed = {line.replace(" ", "") for line in lines if line}
    required = {line.replace(" ", "") for line in requires if "extra ==" not in line}
    assert {normalized(line) for line in required} == {normalized(line) for line in listed}


def normalized(requirement: str) -> tuple[str, frozenset[str]]:
    """The name of a package and its bounds, whose order does not matter."""
    end = next(at for at, letter in enumerate(requirement) if letter in "<>=")
    return requirement[:end].lower().replace("_", "-"), frozenset(requirement[end:].split(","))
