"""The published configs on a few small images in the folders of the real downloads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clouds.commands import train
from clouds.engine.trainer import Trainer
from tests.data.conftest import label_map, save, smooth_image
from tests.data.datasets.test_catalog import PAIRS
from tests.engine.joint import BoxSam
from tests.engine.test_end_to_end import CLIP
from tests.marks import slow
from tests.parity import golden

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs/warmup").glob("*/*.yaml"))
JOINT_CONFIGS = sorted((ROOT / "configs/joint_training").glob("*/*.yaml"))
GENERATED = "sd_llama70b_v2"
SOURCES = {"gta": "gta5", "synthia": "synthia", "cityscapes": "cityscapes_train"}
SEVERAL = ["mapillary_val", "bdd_val", "cityscapes_val"]
WEATHERS = [f"acdc_{weather}_val" for weather in ("night", "rain", "snow", "fog")]
TARGETS = {"gta": SEVERAL, "synthia": SEVERAL, "cityscapes": [*WEATHERS, "cityscapes_val"]}
NOT_IN_SYNTHIA = (9, 14, 16)
HEAD = "sem_seg_head."

SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": "",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 8,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
    "INPUT.INITIAL_HEIGHT": 64,
    "INPUT.INITIAL_WIDTH": 128,
    "INPUT.CROP_SIZE": "(64, 64)",
    "INPUT.TEST_SHORT_EDGE": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SEED": 1,
}


@pytest.fixture(scope="session")
def official_trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every real data set with two images of 64x128 and label maps, with its own folders, names and formats."""
    root = tmp_path_factory.mktemp("datasets")
    for name, (image, label, stem) in PAIRS.items():
        for number in range(2):
            other = f"{number:05d}" if name == "gta5" else f"{stem[:-1]}{number}"
            labels = label_map(number, 64, 128)
            if name == "synthia":
                labels[np.isin(labels, NOT_IN_SYNTHIA)] = 255
            save(root / image.replace(stem, other), smooth_image(number, 64, 128))
            save(root / label.replace(stem, other), labels)
    for number in range(2):
        save(root / f"stable_diffusion/{GENERATED}/images/im_{number}_p{number}.png", smooth_image(number, 64, 96))
    return root


def resnets_slow(configs: Sequence[Path]) -> list[Any]:
    """Return configs as parameters, those of a ResNet as slow ones."""
    resnets = [each for each in configs if re.search(r"_r\d+$", each.stem)]
    return [*(each for each in configs if each not in resnets), *slow(*resnets)]


def run(config: Path, folder: Path, settings: dict[str, Any], *, force: bool = True, flags: Sequence[str] = ()) -> int:
    """Train with this config and small towers of its kind; returns the exit code.

    `force` is needed because a data set of two images is incomplete.
    """
    resnet = config.stem.endswith(("_r50", "_r101"))
    (folder / "tiny_convnext.json").write_text(json.dumps(CLIP))
    clip = golden.ROOT / "clip_configs" / golden.CLIP_CONFIGS["rn"] if resnet else folder / "tiny_convnext.json"
    opts = SMALL | {"MODEL.CLOUDS.CLIP_MODEL_NAME": clip, "MODEL.CLOUDS.EMBED_DIM": 64 if resnet else 16}
    opts |= {"OUTPUT_DIR": folder / "run", **settings}
    words = [str(word) for pair in opts.items() for word in pair]
    return train.main(["--config-file", str(config), *(["--force"] if force else []), *flags, *words])


@pytest.mark.parametrize("config", resnets_slow(CONFIGS), ids=lambda path: path.stem)
def test_recipe_trains_and_is_tested(
    config: Path, official_trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(official_trees))
    assert run(config, tmp_path, {"MODEL.SAVE_PSEUDO_LABELS": True, "TEST.BOUNDARY_IOU": True}) == 0

    source, targets = SOURCES[config.parent.name], TARGETS[config.parent.name]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{source}: 2 training images" in log
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "total_loss" in row] == [1]
    for name in targets:
        evaluated = [row["iteration"] for row in rows if f"{name}/sem_seg/mIoU" in row]
        assert evaluated == [0, 2], "before the first iteration and at the end"
        assert 0 <= rows[-1][f"{name}/sem_seg/mBIoU"] <= 100
    table = log.rpartition("Results\n")[2].splitlines()
    assert table[1].split()[3:] == targets
    assert table[2].split() == ["images", *["2"] * len(targets)]

    # The predictions of each data set are in its own folder: a pair of files per image, of the size of the image.
    assert {path.name for path in (tmp_path / "run" / "pseudo_labels").iterdir()} == set(targets)
    for name in targets:
        files = sorted(path for path in (tmp_path / "run" / "pseudo_labels" / name).iterdir())
        assert [path.name.rpartition("_")[2] for path in files] == ["color.png", "labelTrainIds.png"] * 2
        labels = np.asarray(Image.open(files[1]))
        assert labels.shape == (64, 128)
        assert labels.max() < 19


@pytest.mark.parametrize("config", resnets_slow(JOINT_CONFIGS), ids=lambda path: path.stem)
def test_joint_recipe_learns_generated_images(
    config: Path, official_trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(official_trees))
    monkeypatch.setattr(Trainer, "build_sam", classmethod(lambda cls, cfg: BoxSam()))
    # The factors are those of the recipe, but for Cityscapes, whose .2 of two images is seldom one.
    factor = {"DATASETS.TARGET_FACTOR": 2.0} if config.parent.name == "cityscapes" else {}
    settings = {"MODEL.WEIGHTS": "", "MODEL.CLOUDS.SAM.SIZE_THRESHOLD": 20, "DATASETS.TEST": "('cityscapes_val',)"}
    assert run(config, tmp_path, {**settings, **factor, "SOLVER.IMS_PER_BATCH": 4}) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{GENERATED}: 2 training images" in log
    assert "Pseudo-labels: " in log
    kept = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert kept["teacher"].keys() == {k.removeprefix(HEAD) for k in kept["model"] if k.startswith(HEAD)}


def test_there_are_nine_of_each() -> None:
    assert len(CONFIGS) == len(JOINT_CONFIGS) == 9
