"""The image of the container and the workflow of the hub: their linter finds nothing, and what they name exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clouds.utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "Dockerfile"


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs hadolint, of the extra dev")
    return subprocess.run([program, "--no-color", str(file)], capture_output=True, text=True, timeout=60, check=False)


def test_the_linter_finds_nothing() -> None:
    done = hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "change", [("RUN pip", "RUNS pip"), ('CMD ["--help"]', "CMD clouds --help"), ("FROM base", "FROM ")]
)
def test_the_linter_finds_defects(change: tuple[str, str], tmp_path: Path) -> None:
    text = DOCKERFILE.read_text()
    assert change[0] in text
    (tmp_path / "Dockerfile").write_text(text.replace(*change))
    assert hadolint(tmp_path / "Dockerfile").returncode == 1


def test_the_image_has_what_the_package_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (.*) \./$", DOCKERFILE.read_text(), re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).is_file() and name not in ignored, name
    for name in re.findall(r"--editable (\S+)", DOCKERFILE.read_text()):
        assert (ROOT / name / "pyproject.toml").is_file(), name
    assert not {"clouds", "configs", "projects", "tools"}.intersection(ignored)


def test_the_workflow_runs_the_check_with_every_supported_python() -> None:
    jobs = read_yaml(ROOT / ".github/workflows/test.yml", "The workflow")["jobs"]
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert jobs["test"]["strategy"]["matrix"]["python"] == supported
    commands = [step["run"] for step in jobs["test"]["steps"] if "run" in step]
    assert commands == [".ci/run", "make docs"] and (ROOT / ".ci/run").stat().st_mode & 0o111
    [target] = [
        re.search(r"--target (\w+)", step["run"])
        for step in jobs["container"]["steps"]
        if "build" in step.get("run", "")
    ]
    assert target and f"AS {target[1]}\n" in DOCKERFILE.read_text()
