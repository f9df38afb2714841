"""Rules of the package: which sub-package may import which, no import cycles, commands that start fast."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from minicity.paths import PROJECT

PACKAGE = PROJECT / "minicity"
MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Modules of `minicity` that each part may import besides itself.
BASE = {"minicity.paths"}
MINIATURE = BASE | {"minicity.cards", "minicity.training", "minicity.world"}
ALLOWED = {
    "minicity.paths": set(),
    "minicity.arguments": BASE,
    "minicity.cards": BASE,
    "minicity.world": BASE,
    "minicity.training": BASE,
    "minicity.clip": MINIATURE,
    "minicity.diffusion": MINIATURE,
    "minicity.sam": MINIATURE,
    "minicity.experiment": BASE | {"minicity.world"},
    "minicity.segmenter": BASE | {"minicity.world"},
}


def part(module: str) -> str:
    """Return the entry of `ALLOWED` that a module belongs to."""
    return ".".join(module.split(".")[:2])


def imports(source: str) -> set[str]:
    """Return the modules of the package that a source imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "minicity"}


def violations(module: str, source: str) -> set[str]:
    """Return the imports of a module that `ALLOWED` does not contain."""
    return {name for name in imports(source) if part(name) not in ALLOWED[part(module)] | {part(module)}}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("minicity.world.render", "from minicity.clip.pool import draw_pool", {"minicity.clip.pool"}),
        ("minicity.world.render", "def f():\n    import minicity.sam.pool", {"minicity.sam.pool"}),
        ("minicity.clip.run", "from minicity.diffusion import pool", {"minicity.diffusion.pool"}),
        ("minicity.clip.run", "from minicity.world import pool\nfrom minicity.clip.pool import draw_pool", set()),
    ],
)
def test_the_check_finds_violations(module: str, source: str, expected: set[str]):
    assert violations(module, source) == expected


@pytest.mark.parametrize("module", [name for name in MODULES if name != "minicity"])
def test_parts_import_only_what_they_may(module: str):
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == set()


def test_no_module_imports_itself_through_others():
    graph = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    assert "minicity.world.records" in graph["minicity.world.caption"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def functions_with_imports(path: Path) -> list[str]:
    """Return the names of the functions of a file that import something."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    return [
        function.name
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_functions_of_the_package_import_nothing(module: str):
    assert functions_with_imports(MODULES[module]) == []


@pytest.mark.parametrize("tool", sorted((PROJECT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_a_command_imports_its_work_once_and_its_help_is_light(tool: Path):
    assert functions_with_imports(tool) == ["main"]
    code = f"""
import runpy, sys
sys.argv = ["tool", "--help"]
try:
    runpy.run_path({str(tool)!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "numpy", "cv2", "scipy"}} & set(sys.modules)
assert not heavy, f"--help loads {{heavy}}"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout
