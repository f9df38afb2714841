"""The rules of the house: who may import whom, what the core never names, what stays light to import."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "clouds").rglob("*.py"))
SOURCES = [*CORE, *sorted((ROOT / "tools").rglob("*.py")), ROOT / "train_net.py", ROOT / "generate_txt_im.py"]

# Layer: what it may import besides itself. A module belongs to the longest name that fits.
BASE = {"clouds.errors", "clouds.utils", "clouds.d2", "clouds.data.classes"}
CORE_LAYERS = BASE | {"clouds.config", "clouds.data", "clouds.modeling", "clouds.self_training", "clouds.clouds"}
USES = {"clouds.evaluation", "clouds.visualization", "clouds.generation"}
LAYERS = {
    "clouds": set(),
    "clouds.errors": set(),
    "clouds.utils": {"clouds.errors"},
    "clouds.d2": {"clouds.errors"},
    "clouds.data.classes": set(),
    "clouds.config": BASE,
    "clouds.data": BASE,
    "clouds.modeling": BASE,
    "clouds.self_training": BASE | {"clouds.modeling"},
    "clouds.clouds": BASE | {"clouds.modeling"},
    "clouds.evaluation": BASE | {"clouds.data"},
    "clouds.visualization": BASE | {"clouds.data"},
    "clouds.generation": BASE | {"clouds.data", "clouds.visualization"},
    "clouds.engine": CORE_LAYERS | USES,
    "clouds.experiments": CORE_LAYERS | USES | {"clouds.engine"},
    "clouds.commands": CORE_LAYERS | USES | {"clouds.engine", "clouds.experiments"},
}


def layer(module: str) -> str:
    """The entry of LAYERS that a module belongs to; anything without one is its own layer, which nobody may import."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((name for name in names if name in LAYERS), module)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, package: str) -> set[str]:
    """Every module a source may import, absolute; of `from a import b` both a.b and, where b is a name in a, a."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                below = ROOT / base.replace(".", "/") / alias.name
                found.add(f"{base}.{alias.name}" if below.is_dir() or below.with_suffix(".py").is_file() else base)
    return found


def violations(source: str, module: str, package: str) -> set[str]:
    """What this source imports and, by LAYERS, may not."""
    home = layer(module)
    wanted = {name for name in imports(source, package) if name.split(".")[0] in ("clouds", "detectron2")}
    allowed = LAYERS[home] | {home}
    return {
        name
        for name in wanted
        if (name.startswith("detectron2") and home != "clouds.d2")
        or (name.startswith("clouds.") and layer(name) not in allowed)
    }


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("clouds.modeling.head", "from clouds.data.datasets.catalog import register", {"clouds.data.datasets.catalog"}),
        ("clouds.modeling.head", "from clouds.data import classes", set()),
        ("clouds.modeling.head", "def f():\n    import detectron2.layers", {"detectron2.layers"}),
        ("clouds.evaluation.sem_seg", "from ..config import get_config", {"clouds.config"}),
        ("clouds.evaluation.sem_seg", "from . import sem_seg\nfrom clouds import d2", set()),
        ("clouds.engine.trainer", "from clouds.commands import train", {"clouds.commands"}),
        ("clouds.data.classes", "from clouds.d2 import comm", {"clouds.d2"}),
    ],
)
def test_the_check_finds(module, source, bad):
    assert violations(source, module, module.rpartition(".")[0]) == bad


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_imports_point_one_way(path):
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert violations(path.read_text(encoding="utf-8"), module, package) == set()


def test_layers_have_no_circle():
    order = []
    while rest := [name for name in LAYERS if name not in order]:
        ready = [name for name in rest if LAYERS[name] <= set(order)]
        assert ready, f"these layers import one another: {rest}"
        order += ready


def test_only_the_seam_imports_detectron2():
    for path in SOURCES:
        if ROOT / "clouds" / "d2" not in path.parents:
            names = imports(path.read_text(encoding="utf-8"), "")
            assert not [name for name in names if name.split(".")[0] == "detectron2"], path


def test_no_package_takes_detectron2s_name():
    assert not (ROOT / "detectron2").exists()
    assert not (ROOT / "detectron2.py").exists()


def test_the_core_names_no_project():
    projects = [folder.name for folder in (ROOT / "projects").iterdir() if folder.is_dir()]
    assert projects
    for path in [*CORE, ROOT / "train_net.py"]:
        for project in projects:
            assert project not in path.read_text(encoding="utf-8").lower(), path


def test_light_imports():
    code = """
import sys
def loaded():
    return {"torch", "torchvision", "open_clip", "cv2", "detectron2"} & set(sys.modules)
import clouds
import clouds.config
assert not loaded(), f"import clouds.config loads {loaded()}"
from clouds.d2 import default_argument_parser
default_argument_parser().parse_args([])
clouds.config.load_config(None, ["SEED", "1"])
assert not loaded(), f"parsing arguments loads {loaded()}"
import clouds.data.classes
assert not loaded(), f"import clouds.data.classes loads {loaded()}"
"""
    environment = {**os.environ, "CLOUDS_D2": "bundled"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
