"""detectron2's own `DefaultPredictor` with a config and a checkpoint of this project."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clouds.clouds  # noqa: F401  (registers the architecture)
from clouds import d2, load
from clouds.config import get_config, load_config
from clouds.config.detectron2_keys import set_detectron2_keys
from clouds.d2 import CfgNode, MetadataCatalog
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.setup import resolve_device
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from tests.engine.test_end_to_end import CLIP, CONFIG, ROOT

pytestmark = [pytest.mark.d2, pytest.mark.skipif(d2.MODE != "detectron2", reason="the suite runs without detectron2")]

CLASSES = [f"class {number}" for number in range(3)]
# (width, height): landscape, portrait, a square, very wide, very tall, one pixel high, the short edge of the config.
SIZES = [(101, 67), (67, 101), (53, 53), (300, 11), (9, 180), (40, 1), (48, 48), (48, 61)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CfgNode]:
    """Return a function that reads the config of a small network with a frozen tower and a checkpoint without it."""
    import open_clip

    from clouds.modeling.backbone.open_clip_models import load_open_clip

    folder = tmp_path_factory.mktemp("trained")
    (folder / "clip.json").write_text(json.dumps(CLIP))
    torch.manual_seed(0)
    torch.save(load_open_clip(str(folder / "clip.json")).state_dict(), folder / "clip.pt")
    assert "clip" in open_clip.list_models()
    base = ROOT / "configs/segmentation/clouds_config.yaml"
    text = CONFIG.format(base=base, backbone="CLIP", clip=folder / "clip.json", weights=folder / "clip.pt")
    # A group norm needs two values per group; the smallest image has one pixel on the coarsest map.
    text = text.replace("MODULES: [plugin_for_test], ", "").replace("CONVS_DIM: 32", "CONVS_DIM: 64")
    (folder / "config.yaml").write_text(text)
    for name in ("plugin_train", "plugin_val"):
        MetadataCatalog.pop(name, None)
        MetadataCatalog.get(name).stuff_classes = CLASSES

    def read(*opts: object) -> CfgNode:
        weights = ("MODEL.WEIGHTS", str(folder / "model.pth"))
        return load_config(folder / "config.yaml", [*weights, *map(str, opts)])

    model = Trainer.build_model(read())
    with torch.no_grad():
        for parameter in model.sem_seg_head.predictor.parameters():  # label maps with more than one class
            parameter.add_(torch.randn_like(parameter))
    checkpointer = Checkpointer(model, str(folder))
    checkpointer.save("model")
    checkpointer.wait()
    stored = torch.load(folder / "model.pth", weights_only=True)["model"]
    assert stored
    assert not [key for key in stored if key.startswith("backbone.")]
    return read


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = []
    for width, height in SIZES:
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        files.append(folder / f"{width}x{height}.png")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


def label_maps(cfg: CfgNode, files: list[Path]) -> list[np.ndarray]:
    """Predict with detectron2, from images in BGR as `cv2.imread` and detectron2's `read_image` return them."""
    predict = importlib.import_module("detectron2.engine").DefaultPredictor(cfg)
    read_image = importlib.import_module("detectron2.data.detection_utils").read_image
    return [predict(read_image(str(file), format="BGR"))["sem_seg"].argmax(dim=0).numpy() for file in files]


@pytest.mark.parametrize("short_edge", [48, 0, 31])
def test_it_agrees_with_ours_on_every_pixel(
    trained: Callable[..., CfgNode], images: list[Path], short_edge: int
) -> None:
    cfg = trained("INPUT.TEST_SHORT_EDGE", short_edge)
    cfg.freeze()
    ours = [result.labels for result in load(cfg.MODEL.WEIGHTS, config=cfg).predict(images, batch_size=2)]
    for file, theirs, expected in zip(images, label_maps(cfg, images), ours, strict=True):
        assert theirs.shape == expected.shape, file.name
        assert (theirs == expected).all(), file.name
    assert len({int(label) for labels in ours for label in np.unique(labels)}) > 1


def test_the_agreement_can_fail(trained: Callable[..., CfgNode], images: list[Path]) -> None:
    cfg = trained()
    expected = [result.labels for result in load(cfg.MODEL.WEIGHTS, config=cfg).predict(images)]
    for key, value in (("FORMAT", "BGR"), ("MIN_SIZE_TEST", 31), ("MAX_SIZE_TEST", 60)):
        other = cfg.clone()
        other.INPUT[key] = value
        theirs = label_maps(other, images)
        assert any((mine != its).any() for mine, its in zip(expected, theirs, strict=True)), key


def test_the_derived_keys_follow_the_config(trained: Callable[..., CfgNode]) -> None:
    assert get_config().INPUT.MIN_SIZE_TEST == get_config().INPUT.TEST_SHORT_EDGE == 1024
    cfg = trained("INPUT.TEST_SHORT_EDGE", 31)
    assert (cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == ("RGB", 31, sys.maxsize)
    cfg.INPUT.TEST_SHORT_EDGE = 48
    set_detectron2_keys(cfg)
    assert cfg.INPUT.MIN_SIZE_TEST == 48
    again = load_config(None, ["INPUT.MIN_SIZE_TEST", "9", "INPUT.FORMAT", "BGR"])
    assert (again.INPUT.FORMAT, again.INPUT.MIN_SIZE_TEST) == ("RGB", 1024)


def test_a_change_that_leaves_them_behind_is_reported(
    trained: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    Trainer.build_model(trained())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    cfg = trained()
    cfg.INPUT.TEST_SHORT_EDGE = 64
    Trainer.build_model(cfg)
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage() == (
        "INPUT.MIN_SIZE_TEST is 48, but this config means 64: detectron2's DefaultPredictor would predict otherwise. "
        "Call clouds.config.set_detectron2_keys(cfg) after a change of INPUT.TEST_SHORT_EDGE."
    )


def test_keys_of_detectron2_without_effect_are_reported(
    trained: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = trained()
    cfg.TEST.AUG.MAX_SIZE = 100
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    Trainer.build_model(cfg)
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage() == (
        "Config keys that are not used and were ignored: INPUT.RANDOM_FLIP (use INPUT.FLIP), "
        "SOLVER.REFERENCE_WORLD_SIZE, TEST.AUG.MAX_SIZE (use INPUT.TEST_MAX_PIXELS)"
    )


def test_an_unresolved_device_is_one_sentence(trained: Callable[..., CfgNode]) -> None:
    cfg = trained("MODEL.DEVICE", "auto")
    build_model = importlib.import_module("detectron2.modeling").build_model
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is auto.*\.resolve_device "):
        build_model(cfg)
    resolve_device(cfg)
    assert next(build_model(cfg).parameters()).device.type == cfg.MODEL.DEVICE


def test_default_setup_of_detectron2_takes_the_config(trained: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg = trained("OUTPUT_DIR", tmp_path, "SEED", 3)
    arguments = d2.default_argument_parser().parse_args([])
    importlib.import_module("detectron2.engine").default_setup(cfg, arguments)
    written = load_config(tmp_path / "config.yaml")
    assert written.dump() == cfg.dump()
