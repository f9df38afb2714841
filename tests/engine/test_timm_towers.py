"""Towers of timm in the real loop, by config alone: train, resume, evaluate, predict, save, joint training with SAM."""

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import clouds
from clouds.commands import predict, train
from clouds.d2 import build_model
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from tests.engine.test_end_to_end import config, last_table  # noqa: F401  (config is a fixture)
from tests.engine.test_parallel import process_group, wrapped
from tests.engine.test_resume import same, trained
from tests.engine.test_self_training import Config, joint  # noqa: F401  (joint is a fixture)
from tests.engine.test_self_training import train as train_jointly
from tests.marks import slow
from tests.modeling.timm_folders import config as tower_config
from tests.modeling.timm_folders import write_tower
from tests.parity import golden


def options(folder: Path, name: str = "TimmTower") -> list[str]:
    return ["MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.TIMM.MODEL_NAME", str(folder)]


@pytest.mark.parametrize("kind", ["convnext", "dinov3", *slow("swin", "dinov2_reg", "eva02", "siglip")])
def test_train_resume_evaluate_predict_save(
    config: Callable[..., str],  # noqa: F811
    tiny_root: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    folder, run, half = write_tower(tmp_path / "tower", kind), tmp_path / "run", tmp_path / "half"
    words = ["--config-file", config(), *options(folder), "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "2"]
    words += ["SOLVER.MAX_ITER", "2", "OUTPUT_DIR"]
    assert train.main([*words, str(run)]) == 0
    content = trained(run / "model_final.pth")
    assert not [key for key in content["model"] if key.startswith("backbone.")], "the tower is frozen"

    shutil.copytree(run, half)
    (half / "model_final.pth").unlink()
    (half / "last_checkpoint").write_text("model_0000000.pth")
    assert train.main(["--resume", *words, str(half)]) == 0
    assert "Starting training from iteration 1" in (half / "log.txt").read_text()
    assert same(trained(half / "model_final.pth"), content)

    weights = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    assert train.main(["--eval-only", *words, str(tmp_path / "eval"), *weights]) == 0
    assert last_table(tmp_path / "eval") == last_table(run)
    image, output = tiny_root / "val/images/0.png", tmp_path / "predictions"
    arguments = ["--config-file", str(run / "config.yaml"), str(image.parent), "--output", str(output), *weights]
    assert predict.main(arguments) == 0
    assert len([*output.glob("*_labels.png")]) == 3

    # A tower of a local folder is stored with the network.
    model = clouds.load(run, device="cpu")
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    again = clouds.load(tmp_path / "moved", device="cpu")
    assert torch.equal(torch.as_tensor(again.predict(image).labels), torch.as_tensor(model.predict(image).labels))
    description = json.loads((tmp_path / "moved/clouds.json").read_text())
    assert description["backbone"]["stored"]
    assert (tmp_path / "moved" / description["backbone"]["name"] / "config.json").is_file()
    assert "| image tower | timm_" in (tmp_path / "moved/README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "adapter"),
    [
        ("convnext", "TimmTower", ""),
        ("dinov2_reg", "TimmTower", "Rein"),
        ("dinov3", "TimmTower", "SoMA"),
        ("eva02", "TimmTower", "LoRA"),
        ("siglip", "TrainableTimmTower", ""),
    ],
)
def test_joint_training(joint: Config, tmp_path: Path, kind: str, name: str, adapter: str) -> None:  # noqa: F811
    folder = write_tower(tmp_path / "tower", kind)
    adapted = ("MODEL.ADAPTER.NAME", adapter, "MODEL.ADAPTER.RANK", 2, "MODEL.ADAPTER.TOKENS", 8)
    opts = (*options(folder, name), *adapted, "MODEL.BACKBONE.CHECKPOINTING", True, "SOLVER.MAX_ITER", 2)
    trainer = train_jointly(joint("run", *opts))
    assert trainer.self_training.latest, "the last batch had generated images"
    stored = torch.load(tmp_path / "run/model_final.pth", weights_only=True)
    in_backbone = {key for key in stored["model"] if key.startswith("backbone.")}
    own = {f"backbone.{key}" for key in trainer.model.backbone.state_dict()}
    if name == "TrainableTimmTower":
        assert in_backbone == own
    elif adapter:
        assert in_backbone
        assert in_backbone < own
    else:
        assert not in_backbone

    cfg = joint("eval", *opts, "MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth"))
    default_setup(cfg, Namespace(eval_only=True))
    assert Trainer.test_weights(cfg) == trainer.results


@pytest.mark.parametrize("kind", ["convnext", "dinov2_reg"])
def test_data_parallel_training_waits_for_no_parameter(tmp_path: Path, kind: str) -> None:
    folder = write_tower(tmp_path / "tower", kind)
    model = build_model(tower_config(folder, "MODEL.BACKBONE.CHECKPOINTING", True, backbone="TrainableTimmTower"))
    with process_group(tmp_path):
        network = wrapped(model.train())
        for _ in range(2):  # a parameter without gradient is an error in the second step
            sum(network(golden.batch()).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
