"""The configs in configs/modern: their values, their networks at full size without weights, and small trainings."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch

from clouds.commands import prepare_datasets, train
from clouds.config import load_config
from clouds.config.keys import value_of
from clouds.d2 import CfgNode, build_model
from clouds.engine.optimizer import build_optimizer
from clouds.engine.trainer import Trainer
from tests.config.keys import KNOWN
from tests.data.conftest import save, smooth_image
from tests.engine.joint import BoxSam
from tests.engine.test_official_data import write_cityscapes, write_gta5, write_synthia, write_urbansyn
from tests.engine.test_published_configs import GENERATED, SEVERAL, SMALL
from tests.modeling.timm_folders import write_tower

MODERN = Path(__file__).resolve().parents[2] / "configs/modern"

ADVERSE = tuple(f"acdc_{weather}_val" for weather in ("night", "fog", "rain", "snow"))
# source: training sets, test sets, repeat factor of generated images
SOURCES = {
    "gta": (("gta5",), tuple(SEVERAL), 2.0),
    "synthia": (("synthia",), tuple(SEVERAL), 0.7),
    "cityscapes": (("cityscapes_train",), ("bdd_val", "mapillary_val", *ADVERSE, "cityscapes_val"), 0.2),
    "gta_synthia_urbansyn": (("gta5", "synthia", "urbansyn"), tuple(SEVERAL), 3.0),
}
DINOV3, DINOV2 = "convnext_large.dinov3_lvd1689m", "vit_large_patch14_dinov2.lvd142m"
REIN = 24 * (100 * 16 + 16 * 1024) + 2 * (1024**2 + 1024) + (1024 + 1) * 256 + (3 * 256 + 1) * 256
# file: tower, adapter, parameters that are trained in the tower
NETWORKS = {
    "dinov3_convnext_l_frozen": (DINOV3, "", 0),
    "dinov3_convnext_l_lora": (DINOV3, "LoRA", 270_720 * 16),
    "dinov3_convnext_l_soma": (DINOV3, "SoMA", 270_720 * 16),
    "dinov2_l_frozen": (DINOV2, "", 0),
    "dinov2_l_rein": (DINOV2, "Rein", REIN),
    "dinov2_l_soma": (DINOV2, "SoMA", 393_216 * 16 * 18 // 24),
}
RECIPES = [(source, name) for source in SOURCES for name in NETWORKS]


def values(cfg: CfgNode) -> dict[str, object]:
    return {key: value_of(cfg, key) for key in KNOWN}


def test_every_network_has_both_stages_on_every_source() -> None:
    for stage in ("warmup", "joint_training"):
        files = MODERN.glob(f"{stage}/*/*.yaml")
        assert sorted((file.parent.name, file.stem) for file in files) == sorted(RECIPES)


@pytest.mark.parametrize(("source", "name"), RECIPES)
def test_values(source: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(MODERN / "warmup" / source / f"{name}.yaml")
    joint = load_config(MODERN / "joint_training" / source / f"{name}.yaml")
    assert caplog.records == []
    train, test, factor = SOURCES[source]
    tower, adapter, _ = NETWORKS[name]
    output = f"output/modern/{source}/{name}"
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (train, test)
    assert cfg.OUTPUT_DIR == f"{output}/warmup"
    backbone, model, data, solver = cfg.MODEL.BACKBONE, cfg.MODEL, cfg.INPUT, cfg.SOLVER
    assert (backbone.NAME, backbone.TIMM.MODEL_NAME, backbone.TIMM.WEIGHTS) == ("TimmTower", tower, "pretrained")
    assert (model.ADAPTER.NAME, model.ADAPTER.RANK, model.WEIGHTS) == (adapter, 16, "")
    assert model.ADAPTER.SKIP_BLOCKS == (6 if name == "dinov2_l_soma" else 0)
    assert model.MASK_FORMER.NUM_OBJECT_QUERIES == model.ADAPTER.TOKENS == 100
    assert (data.INITIAL_HEIGHT, data.INITIAL_WIDTH, data.TEST_SHORT_EDGE) == (512, 1024, 512)
    assert (data.SCALE_RANGE, data.CROP_SIZE) == ((0.5, 2.0), (512, 512))
    assert (data.CROP.SINGLE_CATEGORY_MAX_AREA, data.FLIP, data.COLOR_AUG_SSD) == (0.75, True, True)
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.ADAPTER_MULTIPLIER) == ("ADAMW", 1e-4, 1.0)
    assert (solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY) == (0.1, 0.05)
    assert solver.ADAPTER_DECAY == ("cosine" if adapter == "SoMA" else "constant")
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER, solver.WARMUP_ITERS) == ("WarmupPolyLR", 0.9, 0)
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER) == (4, 40_000)
    changed = {
        "MODEL.WEIGHTS": f"{cfg.OUTPUT_DIR}/model_final.pth",
        "MODEL.CLOUDS.SAM.MINIBATCH": True,
        "MODEL.CLOUDS.SAM.ENABLED": True,
        "DATASETS.TRAIN": (*train, GENERATED),
        "DATASETS.TARGET_FACTOR": factor,
        "DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler",
        "OUTPUT_DIR": f"{output}/joint",
    }
    assert values(joint) == values(cfg) | changed


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_network_of_full_size(name: str) -> None:
    """Both stages and all sources have one network, see `test_values`."""
    cfg = load_config(MODERN / "warmup/gta" / f"{name}.yaml", ["MODEL.DEVICE", "meta"])
    model = build_model(cfg)
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == NETWORKS[name][2]
    maps = model.backbone(torch.empty(1, 3, 512, 1024, device="meta"))
    for stride, level in zip((4, 8, 16, 32), ("res2", "res3", "res4", "res5"), strict=True):
        assert maps[level].shape[2:] == (512 // stride, 1024 // stride)
    optimizer = build_optimizer(cfg, model)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}
    of_adapter = {id(p) for group in optimizer.param_groups if group.get("adapter") for p in group["params"]}
    assert of_adapter == {id(p) for p in trained}


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images of each source as they are downloaded, converted, and two generated ones."""
    for write in (write_gta5, write_synthia, write_urbansyn, write_cityscapes):
        write(tmp_path / "data")
    for number in range(2):
        path = tmp_path / f"data/stable_diffusion/{GENERATED}/images/im_{number}_p{number}.png"
        save(path, smooth_image(number, 64, 96))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    prepare_datasets.main(["--nproc", "1"])
    return tmp_path


def run(config: Path, folder: Path, kind: str, settings: dict[str, object]) -> str:
    """Train with a config and a small tower of a kind; return the log."""
    if not (tower := folder / kind).exists():
        write_tower(tower, kind)
    opts = {key: value for key, value in SMALL.items() if not key.startswith("MODEL.CLOUDS")} | {
        "MODEL.BACKBONE.TIMM.MODEL_NAME": tower,
        "MODEL.ADAPTER.RANK": 2,
        "MODEL.ADAPTER.TOKENS": SMALL["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"],
        "DATASETS.TEST": "('cityscapes_val',)",
        "OUTPUT_DIR": folder / "run",
        **settings,
    }
    words = [str(word) for pair in opts.items() for word in pair]
    # A data set of two images is incomplete, which --force allows.
    assert train.main(["--config-file", str(config), "--force", *words]) == 0
    return (Path(str(opts["OUTPUT_DIR"])) / "log.txt").read_text()


def test_three_sources_with_rare_classes(downloads: Path) -> None:
    settings = {"DATALOADER.SAMPLER_TRAIN": "RareClassSampler", "DATALOADER.RARE_CLASS.MIN_PIXELS": 30}
    config = MODERN / "warmup/gta_synthia_urbansyn/dinov3_convnext_l_soma.yaml"
    log = run(config, downloads, "convnext", settings)
    for name in ("gta5", "synthia", "urbansyn"):
        assert f"{name}: 2 training images" in log
    (line,) = [line for line in log.splitlines() if "Labeled images are drawn by class" in line]
    images = dict(re.findall(r"(\d+): [\d.]+ % \((\d+)\)", line))
    assert images.keys() == {str(train_id) for train_id in range(19)}
    assert images["0"] == "6", "all images have road"


def test_joint_training_starts_from_the_warmup(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "build_sam", classmethod(lambda cls, cfg: BoxSam()))
    run(MODERN / "warmup/gta/dinov2_l_rein.yaml", downloads, "dinov2", {"OUTPUT_DIR": downloads / "warmup"})
    settings = {"MODEL.WEIGHTS": downloads / "warmup/model_final.pth", "MODEL.CLOUDS.SAM.SIZE_THRESHOLD": 20}
    log = run(MODERN / "joint_training/gta/dinov2_l_rein.yaml", downloads, "dinov2", settings)
    assert f"{GENERATED}: 2 training images" in log
    assert "Pseudo-labels: " in log
    for folder in ("warmup", "run"):
        kept = torch.load(downloads / folder / "model_final.pth", weights_only=True)["model"]
        in_tower = [key for key in kept if key.startswith("backbone.")]
        assert in_tower, "the adapter"
        assert not [key for key in in_tower if "patch_embed" in key], "not the tower"


def own_config(folder: Path) -> Path:
    """Write the config of GETTING_STARTED for a tower that no config of ours names."""
    document = (MODERN.parents[1] / "GETTING_STARTED.md").read_text(encoding="utf-8")
    section = document.partition("\n## Modern towers and adapters\n")[2]
    name, text = re.search(r"```yaml\n# (\w+\.yaml)\n(.*?)```", section, re.DOTALL).groups()
    (folder / name).write_text(text)
    return folder / name


def test_a_tower_that_timm_has_takes_a_config_and_no_python(downloads: Path) -> None:
    config = own_config(downloads)
    cfg = load_config(config, ["MODEL.DEVICE", "meta"])
    ours = [load_config(file).MODEL.BACKBONE.TIMM.MODEL_NAME for file in MODERN.glob("towers/*.yaml")]
    assert cfg.MODEL.BACKBONE.TIMM.MODEL_NAME not in ours
    model = build_model(cfg)
    assert type(model.backbone.tower).__name__ == "SwinTransformer"
    assert sum(p.numel() for p in model.backbone.parameters() if p.requires_grad) > 10**6

    log = run(config, downloads, "swin", {})
    rows = [json.loads(line) for line in (downloads / "run/metrics.json").read_text().splitlines()]
    assert "cityscapes_val/sem_seg/mIoU" in rows[-1]
    assert "gta5: 2 training images" in log


def test_licenses_in_the_documents_are_those_that_timm_records() -> None:
    document = (MODERN.parents[1] / "INSTALL.md").read_text(encoding="utf-8")
    table = document.partition("| tower | license of its weights |")[2].partition("\n\n")[0]
    found = 0
    for line in table.splitlines()[2:]:
        _, towers, license_, _, _ = line.split("|")
        for name in re.findall(r"`([^`]+)`", towers):
            assert timm.models.get_pretrained_cfg(name).license == license_.strip().lower().replace(" ", "-"), name
            found += 1
    assert found == 9
