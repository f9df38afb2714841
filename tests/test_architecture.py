"""Rules of the architecture: import layers, cycles, the seam, projects, late imports, writing, light imports."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clouds.config.defaults import DEFAULTS

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "clouds").rglob("*.py"))
SCRIPTS = [ROOT / "train_net.py", ROOT / "generate_txt_im.py", *sorted((ROOT / "tools").rglob("*.py"))]
PROJECTS = sorted(path.parent for path in (ROOT / "projects").glob("*/pyproject.toml"))
OF_PROJECTS = [path for folder in PROJECTS for path in sorted(folder.rglob("*.py"))]
SOURCES = [*CORE, *SCRIPTS, *OF_PROJECTS]

# Layer: the other layers that it may import. A module belongs to the entry with the longest matching name.
BASE = {"clouds.version", "clouds.errors", "clouds.utils", "clouds.d2", "clouds.data.classes"}
CORE_LAYERS = BASE | {"clouds.config", "clouds.data", "clouds.modeling", "clouds.self_training", "clouds.clouds"}
USES = {"clouds.evaluation", "clouds.visualization", "clouds.generation"}
LAYERS = {
    "clouds": {"clouds.api", "clouds.version"},
    "clouds.version": set(),
    "clouds.errors": set(),
    "clouds.utils": {"clouds.errors", "clouds.version"},
    "clouds.d2": {"clouds.errors", "clouds.version"},
    "clouds.data.classes": set(),
    "clouds.config": BASE,
    "clouds.data": BASE,
    "clouds.modeling": BASE,
    "clouds.self_training": BASE | {"clouds.modeling"},
    "clouds.clouds": BASE | {"clouds.config", "clouds.modeling"},
    "clouds.evaluation": BASE | {"clouds.data"},
    "clouds.visualization": BASE | {"clouds.data"},
    "clouds.generation": BASE | {"clouds.data", "clouds.visualization"},
    "clouds.engine": CORE_LAYERS | USES,
    "clouds.experiments": CORE_LAYERS | USES | {"clouds.engine"},
    "clouds.api": CORE_LAYERS | USES | {"clouds.engine", "clouds.experiments"},
    "clouds.web": CORE_LAYERS | USES | {"clouds.engine", "clouds.experiments", "clouds.api"},
    "clouds.commands": CORE_LAYERS | USES | {"clouds.engine", "clouds.experiments", "clouds.api", "clouds.web"},
    "clouds.__main__": {"clouds.commands"},
}

# Imports inside functions besides those of commands: module -> {package: reason}.
LATE_IMPORTS = {
    "clouds.api.export": {
        "onnx": "optional dependency",
        "onnxruntime": "optional dependency",
        "torch.fx.experimental.dynamic_spec": "older versions of torch lack it",
        "torch.fx.experimental.symbolic_shapes": "takes seconds, and only an export needs it",
    },
    "clouds.commands.train": {"clouds.api.evaluation": "the Python API, of which a training needs nothing"},
    "clouds.engine.writers": {"wandb": "optional dependency"},
    "clouds.modeling.matcher": {"scipy.optimize": "takes most of a second, and only training matches"},
    "clouds.self_training.regions": {
        "scipy.sparse": "takes half a second, and only pseudo-labels have regions",
        "scipy.sparse.csgraph": "as scipy.sparse",
    },
    "clouds.modeling.inference.labels": {"clouds.modeling.inference.kernel": "needs triton, an optional dependency"},
    "clouds.modeling.pixel_decoder.ops.choice": {
        "clouds.modeling.pixel_decoder.ops.kernel": "needs triton, an optional dependency"
    },
    "clouds.utils.png": {"kornia_rs.io": "dependency that some platforms lack"},
    "clouds.d2.bundled.events": {"torch.utils.tensorboard": "takes seconds, and only a main process writes"},
}

# Calls that write a file or make a folder, outside `clouds.utils.atomic`: module -> {call: reason}.
WRITERS = {
    "clouds.api.files": {"result.save": "writes through `clouds.utils.atomic`"},
    "clouds.commands.adapter": {"model.merge().save_pretrained": "writes through `clouds.utils.atomic`"},
    "clouds.commands.entry": {"Path(os.devnull).open": "the null device"},
    "clouds.commands.get_weights": {
        "backend.mkdir": "in a temporary folder",
        "(backend / '__init__.py').touch": "in a temporary folder",
        "(backend / 'build_meta.py').write_text": "in a temporary folder",
        "wanted.write_text": "in a temporary folder",
    },
    "clouds.engine.hooks.checkpointing": {
        "self.checkpointer.save": "writes through `clouds.utils.atomic`",
        "self.save": "calls `self.checkpointer.save`",
    },
    "clouds.self_training.sam.cache": {"tempfile.TemporaryFile": "nothing is written to it"},
    "clouds.web.page": {"result.save": "writes through `clouds.utils.atomic`"},
    "clouds.utils.frames": {"av.open": "reads a path, and writes to a file that `clouds.utils.atomic` has opened"},
}
# Names of functions that write to their path, of those that write to what they are given, and of those that open it.
TO_PATHS = {
    *("write_text", "write_bytes", "touch", "mkdir", "makedirs", "imwrite", "save_file", "tofile"),
    *("copy", "copy2", "copyfile", "copytree", "move", "mkstemp", "NamedTemporaryFile", "TemporaryFile"),
    *("FileHandler", "RotatingFileHandler"),
}
TO_FILES = {"save", "savez", "savez_compressed", "savetxt", "dump", "savefig", "save_pretrained"}
# Keywords of `clouds.Segmenter.save_pretrained`, which writes through `clouds.utils.atomic`.
OF_SEGMENTER = {"include_backbone", "link_backbone"}
TEMPORARY = {"atomic_file", "atomic_folder", "append_file"}
OPENERS = {"open", "fdopen", "FileIO", "ZipFile"}

# Layers in which config keys are named only where a config is read. The others work on whole configs.
PURE = CORE_LAYERS - {"clouds.config", "clouds.d2"} | USES
WRITE_CONFIGS = {"clouds.data.datasets.custom": "turns the description of a data set into config keys"}
SECTIONS = "|".join(key for key, value in DEFAULTS.items() if isinstance(value, dict))
CONFIG_KEY = re.compile(rf"\b(?:{SECTIONS})\.[A-Z][A-Z0-9_.]*")

HEAVY = {"torch", "torchvision", "open_clip", "diffusers", "transformers", "matplotlib", "detectron2"}


def layer(module: str) -> str:
    """Return the entry of LAYERS that a module belongs to; "" if there is none."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((name for name in names if name in LAYERS), module if module in LAYERS else "")


def module_name(path: Path) -> str:
    """Return the name under which a file is imported: relative to the repository, or to its project."""
    root = next((folder for folder in PROJECTS if folder in path.parents), ROOT)
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_name(path: Path) -> str:
    """Return the package that relative imports in a file start from."""
    module = module_name(path)
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def imports(tree: ast.AST, package: str) -> set[str]:
    """Return every module that the code may import, by absolute name.

    For `from a import b` this is `a.b` if `b` is a module, else `a`.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                below = [root / base.replace(".", "/") / alias.name for root in (ROOT, *PROJECTS)]
                is_module = any(path.is_dir() or path.with_suffix(".py").is_file() for path in below)
                found.add(f"{base}.{alias.name}" if is_module else base)
    return found


def violations(source: str, module: str, package: str) -> set[str]:
    """Return the modules of clouds that a source imports against LAYERS."""
    home = layer(module)
    allowed = LAYERS[home] | {home}
    wanted = imports(ast.parse(source), package)
    return {name for name in wanted if name.startswith("clouds.") and layer(name) not in allowed}


def late_imports(source: str, module: str) -> list[str]:
    """Return the imports inside functions that no rule allows, as "line: statement".

    Allowed are those of LATE_IMPORTS, those of a module's `__getattr__`, and a single one in the module of a command.
    """
    tree = ast.parse(source)
    resolvers = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
    found = {
        node.lineno: node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function not in resolvers
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        if not imports(node, "") <= LATE_IMPORTS.get(module, {}).keys()
    }
    is_command = module.startswith(("clouds.commands.", "tools."))
    allowed = 1 if is_command and len(found) == 1 else 0
    return [f"{line}: {ast.unparse(node)}" for line, node in sorted(found.items())][allowed:]


def writes(source: str) -> list[str]:
    """Return the calls that write a file or make a folder by themselves, as source without their arguments.

    A function that takes an open file or a folder may write to those of TEMPORARY, or to memory.
    """
    tree = ast.parse(source)
    opened = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and _name(item.context_expr) in TEMPORARY
    }
    opened |= {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _name(node.value) in ("BytesIO", "StringIO")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _writes(node, opened)]


def _name(node: ast.AST) -> str:
    """Return the last name of the function that an expression calls; "" if it is no call."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _writes(call: ast.Call, opened: set[str]) -> bool:
    name, arguments = _name(call), [*call.args, *(keyword.value for keyword in call.keywords)]
    to_open_file = any(isinstance(argument, ast.Name) and argument.id in opened for argument in arguments)
    if name in OPENERS:
        modes = [each.value for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return not to_open_file and any(re.fullmatch(r"[wax]\S?\S?|r\S?\+\S?|r:?b?\+", mode) for mode in modes)
    if OF_SEGMENTER & {keyword.arg for keyword in call.keywords}:
        return False
    if name in TO_FILES:
        # `safetensors.torch.save`, imported by name, returns bytes.
        by_name = isinstance(call.func, ast.Name)
        return not to_open_file and not by_name and not (name == "dump" and len(call.args) < 2)
    # A dict has a method `copy`, too, without arguments.
    return name in TO_PATHS and (not name.startswith("copy") or ast.unparse(call.func).startswith("shutil."))


def texts(tree: ast.AST, function: ast.FunctionDef | None = None) -> Iterator[tuple[ast.FunctionDef | None, str]]:
    """Yield every string that is no docstring, with the innermost function around it."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield function, child.value
        elif not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from texts(child, child if isinstance(child, ast.FunctionDef) else function)


def named_keys(source: str) -> list[str]:
    """Return the strings that name a config key outside `from_config`, `build_*` and functions that take a config."""

    def reads_config(function: ast.FunctionDef | None) -> bool:
        return function is not None and (
            function.name == "from_config"
            or function.name.startswith("build_")
            or any(argument.arg == "cfg" for argument in (*function.args.args, *function.args.kwonlyargs))
        )

    return [
        text for function, text in texts(ast.parse(source)) if CONFIG_KEY.search(text) and not reads_config(function)
    ]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("clouds.modeling.head", "from clouds.data.datasets.catalog import register", {"clouds.data.datasets.catalog"}),
        ("clouds.modeling.head", "from clouds.data import classes", set()),
        ("clouds.evaluation.sem_seg", "from ..config import get_config", {"clouds.config"}),
        ("clouds.evaluation.sem_seg", "from . import sem_seg\nfrom clouds import d2", set()),
        ("clouds.engine.trainer", "from clouds.commands import train", {"clouds.commands.train"}),
        ("clouds.engine.trainer", "from clouds.commands import COMMANDS", {"clouds.commands"}),
        ("clouds.data.classes", "from clouds.d2 import comm", {"clouds.d2"}),
        ("clouds.config.loading", "def f():\n    from clouds.data.encoding import x", {"clouds.data.encoding"}),
    ],
)
def test_the_layer_check_finds(module: str, source: str, bad: set[str]) -> None:
    assert violations(source, module, module.rpartition(".")[0]) == bad


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    assert layer(module_name(path)), "this module has no layer: add its package to LAYERS"
    assert violations(read(path), module_name(path), package_name(path)) == set()


def test_layers_have_no_cycle() -> None:
    graphlib.TopologicalSorter(LAYERS).prepare()


def test_modules_have_no_cycle() -> None:
    modules = {module_name(path): path for path in [*CORE, *OF_PROJECTS]}
    del modules["clouds"]  # imports nothing until one of its names is used
    graph = {
        module: imports(ast.parse(read(path)), package_name(path)) & modules.keys() - {module}
        for module, path in modules.items()
    }
    assert sum(map(len, graph.values())) > 2 * len(graph)  # the imports are found
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_seam_imports_detectron2() -> None:
    for path in SOURCES:
        roots = {name.split(".")[0] for name in imports(ast.parse(read(path)), package_name(path))}
        assert "detectron2" not in roots or ROOT / "clouds" / "d2" in path.parents, path


def test_no_package_takes_detectron2s_name() -> None:
    assert not (ROOT / "detectron2").exists()
    assert not (ROOT / "detectron2.py").exists()


def test_nothing_names_a_project() -> None:
    assert PROJECTS
    folders = [path for name in ("tests", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))]
    for path in [*CORE, *SCRIPTS, *folders]:
        for project in PROJECTS:
            assert project.name not in read(path).lower(), path


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("clouds.a", "import torch", 0),
        ("clouds.a", "def f():\n    import torch", 1),
        ("clouds.a", "class A:\n    def f(self):\n        def g():\n            from torch import nn", 1),
        ("clouds.a", "def __getattr__(name):\n    import torch", 0),
        ("clouds.a", "class A:\n    def __getattr__(self, name):\n        import torch", 1),
        ("clouds.commands.a", "def run(a):\n    from clouds.engine import b", 0),
        ("clouds.commands.a", "def run(a):\n    from clouds.engine import b\n    from clouds import c", 2),
        ("clouds.commands.a", "def run(a):\n    from clouds.engine import b\n\ndef main(a):\n    import torch", 2),
        ("tools.a", "def main(a):\n    from clouds.engine import b", 0),
        ("clouds.a", "def run(a):\n    from clouds.engine import b", 1),
        ("clouds.engine.writers", "def f():\n    import wandb", 0),
        ("clouds.engine.writers", "def f():\n    import wandb, torch", 1),
    ],
)
def test_the_check_of_late_imports_finds(module: str, source: str, count: int) -> None:
    assert len(late_imports(source, module)) == count


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "tests" not in path.relative_to(ROOT).parts], ids=module_name
)
def test_imports_inside_functions(path: Path) -> None:
    assert late_imports(read(path), module_name(path)) == []


def test_late_imports_are_still_there() -> None:
    for module, packages in LATE_IMPORTS.items():
        source = read(ROOT / f"{module.replace('.', '/')}.py")
        assert all(re.search(rf"^\s+(import|from) {re.escape(name)}\b", source, re.M) for name in packages), module


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(path, 'w')", ["open"]),
        ("path.open('ab')", ["path.open"]),
        ("path.open(mode='r+b')", ["path.open"]),
        ("path.open('rb'); open(path); Image.open(file)", []),
        ("os.fdopen(descriptor, 'w')", ["os.fdopen"]),
        ("path.parent.mkdir(parents=True)", ["path.parent.mkdir"]),
        ("(folder / 'a').write_text('x')", ["(folder / 'a').write_text"]),
        ("image.save(path)", ["image.save"]),
        ("with atomic_file(path) as file:\n    image.save(file, 'PNG')", []),
        ("with atomic_folder(path) as part:\n    model.save_pretrained(part)", []),
        ("model.save_pretrained(path); model.save_pretrained(path, link_backbone=True)", ["model.save_pretrained"]),
        ("with open_it(path) as file:\n    image.save(file, 'PNG')", ["image.save"]),
        ("buffer = io.BytesIO()\nfigure.savefig(buffer)", []),
        ("torch.save(x, path); np.savez(path, a=1); json.dump(x, file)", ["torch.save", "np.savez", "json.dump"]),
        ("zipfile.ZipFile(path, 'w'); zipfile.ZipFile(path)", ["zipfile.ZipFile"]),
        ("shutil.copyfile(a, b); values.copy(); copy.copy(a)", ["shutil.copyfile"]),
        ("cv2.imwrite(path, x); content = save(tensors)", ["cv2.imwrite"]),
    ],
)
def test_the_check_of_writes_finds(source: str, found: list[str]) -> None:
    assert writes(source) == found


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if not {"tests", "benchmarks"} & {*path.relative_to(ROOT).parts}],
    ids=module_name,
)
def test_only_one_module_writes_files(path: Path) -> None:
    if path != ROOT / "clouds/utils/atomic.py":
        assert set(writes(read(path))) == WRITERS.get(module_name(path), {}).keys()


def test_scripts_only_call_a_command() -> None:
    for path in SCRIPTS:
        defined = [node for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert defined == [], path


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(x):\n    raise ValueError(f'SOLVER.BASE_LR is {x}')", 1),
        ("def f(x):\n    'SOLVER.BASE_LR'\n    raise ValueError(f'base_lr is {x}')", 0),
        ("class A:\n    def from_config(cls, cfg):\n        raise ValueError('SOLVER.BASE_LR')", 0),
        ("def build_it(x):\n    raise ValueError('SOLVER.BASE_LR')", 0),
        ("def check(cfg):\n    raise ValueError('SOLVER.BASE_LR')", 0),
        ("A = 'MODEL.WEIGHTS'", 1),
    ],
)
def test_the_check_of_config_keys_finds(source: str, count: int) -> None:
    assert len(named_keys(source)) == count


@pytest.mark.parametrize(
    "path",
    [path for path in CORE if layer(module_name(path)) in PURE and module_name(path) not in WRITE_CONFIGS],
    ids=module_name,
)
def test_pure_code_names_no_config_key(path: Path) -> None:
    assert named_keys(read(path)) == []


def python(code: str, *arguments: str) -> None:
    """Run code in a fresh process; an exception in it fails the test."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "CLOUDS_D2": "bundled"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_importing_the_config_is_light() -> None:
    code = """
import sys
def check(what):
    loaded = set(sys.argv[1:]) & set(sys.modules)
    assert not loaded, f"{what} loads {loaded}"
import clouds
check("import clouds")
import clouds.config
clouds.config.load_config(None, ["SEED", "1"])
check("clouds.config")
import clouds.data.classes
check("clouds.data.classes")
"""
    python(code, "cv2", *sorted(HEAVY))


def test_help_is_light() -> None:
    scripts = [*SCRIPTS, *(path for path in OF_PROJECTS if path.parent.name == "tools")]
    code = """
import runpy, sys
heavy, scripts = sys.argv[1].split(), sys.argv[2:]
for script in scripts:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, f"{script} --help ends with {end.code}"
    else:
        raise AssertionError(f"{script} --help does not end")
    loaded = set(heavy) & set(sys.modules)
    assert not loaded, f"{script} --help loads {loaded}"
"""
    python(code, " ".join(sorted(HEAVY)), *map(str, scripts))
