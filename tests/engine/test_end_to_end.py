"""A small CLOUDS network with real files through the commands: train, evaluate, predict."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clouds.api import files
from clouds.commands import predict, train
from clouds.engine.setup import code_version
from tests.engine.conftest import CLASSES, COLORS

ROOT = Path(__file__).resolve().parents[2]

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
# A plug-in as a user would write it.
MODULE = """
from clouds.data.datasets import catalog

def register(root):
    for split in ("train", "val"):
        name, folder = f"plugin_{split}", root / split
        load = lambda name=name, folder=folder: catalog.pair_by_stem(
            name, folder / "images", ".png", folder / "labels", "_labelTrainIds.png")
        catalog.register(name, load, classes=CLASSES, colors=COLORS)
"""
CONFIG = """
_BASE_: {base}
SEED: 5
MODEL:
  DEVICE: cpu
  BACKBONE: {{NAME: {backbone}}}
  CLOUDS: {{CLIP_MODEL_NAME: {clip}, CLIP_PRETRAINED_WEIGHTS: "{weights}", EMBED_DIM: 16}}
  SEM_SEG_HEAD: {{NUM_CLASSES: 3, CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1,
    TRANSFORMER_ENC_DIM_FEEDFORWARD: 32, DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: 4}}
  MASK_FORMER: {{HIDDEN_DIM: 32, NUM_OBJECT_QUERIES: 8, NHEADS: 4, DIM_FEEDFORWARD: 32, DEC_LAYERS: 3,
    TRAIN_NUM_POINTS: 64}}
INPUT: {{INITIAL_HEIGHT: 24, INITIAL_WIDTH: 32, CROP_SIZE: [32, 32], TEST_SHORT_EDGE: 48}}
DATASETS: {{MODULES: [plugin_for_test], TRAIN: [plugin_train], TEST: [plugin_val]}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 4, MAX_ITER: 30, BASE_LR: 0.01, WARMUP_ITERS: 0}}
TEST: {{EVAL_PERIOD: 10, SHOWN_IMAGES: 0}}
"""

Run = Callable[..., Path]


def write_config(
    file: Path,
    *,
    backbone: str = "TrainableCLIP",
    weights: str = "",
    plugin: str = "plugin_for_test",
    module: str = MODULE,
) -> Path:
    """Write the config of a small CLOUDS, and beside it the description of its CLIP and the plug-in of its data sets.

    A process imports a plug-in of a name once, so that different ones need different names.
    """
    (file.parent / f"{plugin}.py").write_text(f"{CLASSES=}\n{COLORS=}\n{module}")
    clip = file.parent / "clip.json"
    clip.write_text(json.dumps(CLIP))
    base = ROOT / "configs/segmentation/clouds_config.yaml"
    text = CONFIG.format(base=base, backbone=backbone, clip=clip, weights=weights)
    file.write_text(text.replace("plugin_for_test", plugin))
    return file


@pytest.fixture
def config(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A config file for a small CLOUDS on the tiny task."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_root))
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str = "c.yaml", backbone: str = "TrainableCLIP", weights: str = "") -> str:
        return str(write_config(tmp_path / name, backbone=backbone, weights=weights))

    return write


def last_table(folder: Path) -> str:
    """The text after the last "Results" line of the log."""
    return (folder / "log.txt").read_text().rpartition("Results\n")[2].partition("\n[")[0].strip()


def scores(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["plugin_val/sem_seg/mIoU"] for row in rows if "plugin_val/sem_seg/mIoU" in row]


def test_train_evaluate_predict(
    config: Callable[..., str],
    tiny_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, run, weights = config(), tmp_path / "run", str(tmp_path / "run" / "model_final.pth")
    assert train.main(["--config-file", file, "OUTPUT_DIR", str(run)]) == 0
    table = last_table(run)
    assert len(scores(run)) == 4
    assert table.split()[:7] == ["protocol", "full_resolution,", "commit", f"{code_version()},", "seed", "5", "IoU"]
    assert table.split()[10:14] == ["images", "3", "mIoU", f"{scores(run)[-1]:.2f}"]
    assert scores(run)[-1] > scores(run)[0] + 20, "it learns, or equal scores would mean little"

    evaluation = tmp_path / "eval"
    opts = ("OUTPUT_DIR", str(evaluation), "MODEL.WEIGHTS", weights, "SEED", "-1")
    assert train.main(["--config-file", file, "--eval-only", *opts]) == 0
    assert last_table(evaluation) == table, "to the last digit, seed of the training included"
    assert (evaluation / "config_eval.yaml").is_file()
    assert not (evaluation / "config.yaml").exists()
    capsys.readouterr()

    source = tmp_path / "mine"
    (source / "sub").mkdir(parents=True)
    image = Image.open(tiny_root / "val/images/0.png")
    image.resize((75, 51)).save(source / "sub" / "odd.jpg")
    image.convert("RGBA").save(source / "alpha.png")
    output = tmp_path / "predictions"
    words = ["--config-file", file, str(source), "--output", str(output), "MODEL.WEIGHTS", weights]
    assert predict.main(words) == 0
    written = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert written == {
        *("alpha_labels.png", "alpha_overlay.jpg"),
        *("sub/odd_labels.png", "sub/odd_overlay.jpg"),
    }
    labels = Image.open(output / "sub/odd_labels.png")
    assert labels.mode == "L"
    assert labels.size == Image.open(output / "sub/odd_overlay.jpg").size == (75, 51)
    assert np.asarray(labels).max() < len(CLASSES)
    truth = np.asarray(Image.open(tiny_root / "val/labels/0_labelTrainIds.png"))
    same_image = np.asarray(Image.open(output / "alpha_labels.png"))
    assert (same_image == truth)[truth != 255].mean() > 0.8
    capsys.readouterr()

    # The good images are labelled, and the broken one is reported.
    (source / "broken.png").write_bytes(b"not an image")
    (source / "empty.png").touch()
    (output / "alpha_labels.png").unlink()
    logged: list[str] = []
    monkeypatch.setattr(files.logger, "error", lambda form, *values: logged.append(form % values))
    assert predict.main(words) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: 2 of 4 inputs failed, the others are done; first: The image ")
    assert "broken.png is a text file that begins with 'not an image'" in err.splitlines()[-1]
    assert [line.partition(".png is ")[0] for line in logged] == [
        f"The image {source}/{n}" for n in ("broken", "empty")
    ]
    assert (output / "alpha_labels.png").exists()

    # The same weights for another network.
    other = ("OUTPUT_DIR", str(evaluation), "MODEL.WEIGHTS", weights, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "9")
    assert train.main(["--config-file", file, "--eval-only", *other]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "model_final.pth is a checkpoint of another model: 'sem_seg_head.predictor.query" in error
    assert error.endswith("check MODEL.* against the config it was trained with.")


def test_a_frozen_tower_is_left_out_and_comes_back(
    config: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import open_clip

    from clouds.modeling.backbone.open_clip_models import load_open_clip

    config()  # writes clip.json
    torch.manual_seed(0)
    tower = tmp_path / "clip.pt"
    torch.save(load_open_clip(str(tmp_path / "clip.json")).state_dict(), tower)
    assert "clip" in open_clip.list_models()

    file, run = config(backbone="CLIP", weights=str(tower)), tmp_path / "run"
    assert train.main(["--config-file", file, "OUTPUT_DIR", str(run), "SOLVER.MAX_ITER", "2"]) == 0
    stored = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert stored
    assert not [key for key in stored if key.startswith("backbone.")]
    opts = ("OUTPUT_DIR", str(tmp_path / "eval"), "MODEL.WEIGHTS", str(run / "model_final.pth"), "SEED", "77")
    assert train.main(["--config-file", file, "--eval-only", *opts]) == 0
    assert last_table(tmp_path / "eval") == last_table(run)
    capsys.readouterr()
    bare = config(name="bare.yaml", backbone="CLIP")
    assert train.main(["--config-file", bare, "--eval-only", *opts]) == 2, "a tower that nobody trained"
    assert "model_final.pth" in capsys.readouterr().err

    # Resumed to its full length, it goes on where it was.
    assert train.main(["--config-file", file, "--resume", "OUTPUT_DIR", str(run)]) == 0
    assert "Starting training from iteration 2" in (run / "log.txt").read_text()


def truncated(folder: Path) -> None:
    file = folder / "images" / "2.png"
    file.write_bytes(file.read_bytes()[:200])


def label_77(folder: Path) -> None:
    file = folder / "labels" / "2_labelTrainIds.png"
    labels = np.array(Image.open(file))
    labels[3:5, 7] = 77
    Image.fromarray(labels).save(file)


def another_size(folder: Path) -> None:
    file = folder / "labels" / "2_labelTrainIds.png"
    Image.open(file).crop((0, 0, 20, 20)).save(file)


@pytest.mark.parametrize("flags", [[], ["--eval-only"]])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (truncated, "images/2.png cannot be read"),
        (label_77, "labels/2_labelTrainIds.png has the label id 77 on 2 pixels"),
        (another_size, "images/2.png is 24x32 (height x width), but its label map"),
    ],
)
def test_a_bad_file_is_one_sentence(
    config: Callable[..., str],
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    harm: Callable[[Path], None],
    said: str,
) -> None:
    shutil.copytree(tiny_root, tmp_path / "data")
    harm(tmp_path / "data" / ("val" if flags else "train"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    workers = "1" if harm is truncated else "0"  # an error in a worker must arrive as it is, too
    opts = ("OUTPUT_DIR", str(tmp_path / "run"), "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", workers)
    assert train.main(["--config-file", config(), *flags, *opts]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert said in err
    assert "Traceback" not in out
    assert bool(flags) or said in (tmp_path / "run" / "log.txt").read_text()


def test_no_weights_is_told_and_evaluated(config: Callable[..., str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(["--config-file", config(), "--eval-only", "OUTPUT_DIR", str(run)]) == 0
    assert "MODEL.WEIGHTS is empty: the head is untrained" in (run / "log.txt").read_text()
    assert "mIoU" in last_table(run)
