"""The notebook runs from its first cell to its last, in a folder like the repository."""

import ast
import contextlib
import json
import shlex
from typing import Any

import pytest
from minicity.paths import PROJECT, REPOSITORY

from clouds.commands.main import main as clouds_command
from tests.commands import script

pytestmark = pytest.mark.slow

NOTEBOOK = PROJECT / "miniature.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
SMALL = {  # of the cell "parameters"
    "TRAIN_IMAGES": 4,
    "GENERATED_IMAGES": 4,
    "TEST_IMAGES": 1,
    "WARMUP_ITERATIONS": 2,
    "JOINT_ITERATIONS": 10,
}


def run_command(line: str) -> None:
    """Run a command of a cell in this process."""
    program, *words = shlex.split(line.replace("\\\n", ""))  # as a shell joins lines
    if program == "clouds":
        assert clouds_command([*words, "TEST.SHOWN_IMAGES", "0", "DATALOADER.NUM_WORKERS", "0"]) == 0
    else:
        assert program == "python"
        assert script(words[0]).main([*words[1:], "--workers", "1"]) == 0


def run_cell(source: str, names: dict[str, Any]) -> object:
    """Run a cell as Jupyter does; return the value of an expression in its last line, otherwise None."""
    if source.startswith("!"):
        return run_command(source[1:].format(**names))
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return eval(ast.unparse(last), names) if last else None


def test_the_notebook(tmp_path, monkeypatch):
    for entry in REPOSITORY.iterdir():
        if entry.name not in {"datasets", "output"} and not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.setattr("minicity.paths.REPOSITORY", tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    names: dict[str, Any] = {}
    shown = []
    with contextlib.chdir(tmp_path):
        for cell in CELLS:
            if cell["cell_type"] == "code":
                shown.append(run_cell("".join(cell["source"]), names))
                if "parameters" in cell["metadata"].get("tags", ()):
                    assert names.keys() >= SMALL.keys()
                    names |= SMALL
    sizes = [each.size for each in shown if hasattr(each, "size")]
    assert sizes[:3] == [(768, 384)] * 3  # overlay, entropy, overlay of other classes
    assert len(sizes) == 6
    assert names["model"].classes == names["trained"].classes
    assert (tmp_path / "output/notebook/joint/model_final.pth").is_file()


@pytest.mark.parametrize("cell", CELLS, ids=[cell["id"] for cell in CELLS])
def test_cells_are_stored_without_results(cell):
    assert not cell.get("outputs")
    assert cell.get("execution_count") is None
