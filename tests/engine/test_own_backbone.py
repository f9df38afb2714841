"""A backbone without text in the real loop: joint training, checkpoint, evaluation, through the config."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from clouds.d2 import inference_on_dataset
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from tests.engine.test_self_training import Config, joint, train  # noqa: F401  (joint is a fixture)
from tests.modeling.test_backbone import ToyPyramid


@pytest.mark.parametrize("one_view", [False, True])
def test_joint_training_and_evaluation(
    joint: Config,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_view: bool,
) -> None:
    opts = ("MODEL.BACKBONE.NAME", "ToyPyramid", "SOLVER.MAX_ITER", 2, "INPUT.COLOR_AUG_SSD", not one_view)
    trainer = train(joint("run", *opts))
    assert isinstance(trainer.model.backbone, ToyPyramid)
    stored = torch.load(tmp_path / "run/model_final.pth", weights_only=True)
    assert [key for key in stored["model"] if key.startswith("backbone.")], "no other file has these weights"
    assert trainer.self_training.latest, "the last batch had generated images"

    cfg = joint("eval", *opts, "MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth"))
    default_setup(cfg, Namespace(eval_only=True))
    assert Trainer.test_weights(cfg) == trainer.results

    [name] = cfg.DATASETS.TEST
    loader = trainer.build_test_loader(cfg, name)
    by_scores = inference_on_dataset(trainer.model, loader, trainer.build_evaluator(cfg, name))
    assert by_scores == trainer.results[name]
    monkeypatch.setattr("clouds.clouds.image_scores", lambda *_: pytest.fail("computed scores"))
    assert Trainer.test(cfg, trainer.model) == trainer.results
