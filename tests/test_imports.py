"""Commands import only the packages that they use, and no module that exists on Linux alone."""

import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import clouds
from clouds.config import load_config
from clouds.engine.trainer import Trainer
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import write_config
from tests.test_architecture import SCRIPTS

ROOT = Path(__file__).resolve().parents[1]

# Packages and modules that take long and that a prediction does not use.
UNUSED = {
    *("transformers", "diffusers", "accelerate", "segment_anything", "matplotlib", "pandas", "jinja2", "wandb"),
    *("scipy.optimize", "scipy.sparse", "scipy.stats", "tensorboard", "tensorflow", "torch.utils.tensorboard"),
    *("onnx", "onnxscript", "cityscapesscripts", "IPython"),
}
USED_BY_TRAINING = {"scipy.optimize", "scipy.sparse", "tensorboard", "torch.utils.tensorboard"}

# Modules that need an optional package.
OPTIONAL = {"clouds.web.page", "clouds.web.server", "clouds.web.style"}

CODE = """
import builtins, importlib, json, os, runpy, select, signal, sys
unused, used_by_training, predicting, training, modules, scripts = map(json.loads, sys.argv[1:])

def check(what, unused):
    loaded = sorted(set(unused) & sys.modules.keys())
    assert not loaded, f"{what} imports {loaded}"

import clouds
check("import clouds", ["torch", "numpy", "yaml"])

# This project is given what Windows has. Other packages have code for Windows of their own, which asks for its name.
missing = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}
def load(name, globals=None, locals=None, fromlist=(), level=0, load=builtins.__import__):
    if name in missing and (globals or {}).get("__name__", "").startswith("clouds"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return load(name, globals, locals, fromlist, level)
builtins.__import__ = load
import torch
del select.poll, os.sched_getaffinity, os.fork, os.register_at_fork, os.getuid, os.confstr
del signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGKILL, signal.pthread_sigmask

from clouds.commands import predict, train
assert predict.main(predicting) == 0
check("a prediction", unused)
assert train.main(training) == 0
check("a training", set(unused) - set(used_by_training))
for name in modules:
    importlib.import_module(name)
for script in scripts:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
"""


@pytest.mark.slow
def test_only_what_is_used_and_what_every_system_has(tmp_path: Path) -> None:
    """A process without what Linux alone has predicts, trains, and imports every module and the help of every command.

    torch._dynamo and torch._inductor are not among the unused modules, because timm and torchvision import them.
    """
    for split in ("train", "val"):
        write_images(tmp_path / split, 4)
    file, weights = write_config(tmp_path / "c.yaml"), tmp_path / "weights.pth"
    cityscapes = ["DATASETS.MODULES", "()", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]
    cityscapes += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19"]
    torch.save({"model": Trainer.build_model(load_config(str(file), cityscapes)).state_dict()}, weights)
    predicting = [f"--config-file={file}", str(tmp_path / "val/images/0.png"), f"--output={tmp_path / 'out'}"]
    predicting += ["MODEL.WEIGHTS", str(weights), *cityscapes]
    training = [f"--config-file={file}", "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.MAX_ITER", "1"]
    found = [module.name for module in pkgutil.walk_packages(clouds.__path__, "clouds.")]
    modules = [name for name in found if name not in OPTIONAL]
    assert len(modules) == len(found) - len(OPTIONAL)
    lists = (sorted(UNUSED), sorted(USED_BY_TRAINING), predicting, training, modules, list(map(str, SCRIPTS)))
    environment = {"CLOUDS_D2": "bundled", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    environment["PYTHONWARNDEFAULTENCODING"] = "1"  # a text file without encoding, which depends on the system, warns
    result = subprocess.run(
        [sys.executable, "-c", CODE, *map(json.dumps, lists)],
        env={**os.environ, **environment, "DETECTRON2_DATASETS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert not re.findall(rf"{ROOT}/clouds.*EncodingWarning.*", result.stderr)
    assert result.stdout.count("usage: ") == len(SCRIPTS)
    assert (tmp_path / "out/0_labels.png").is_file()
    assert (tmp_path / "run/model_final.pth").is_file()
