"""Moving average of the weights: its numbers, its checkpoints, and who takes it."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

import clouds
from clouds.config import load_config
from clouds.d2 import CfgNode
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import last_table, write_config
from tests.engine.test_resume import Killed, rows, same, train, trained

DECAY = 0.75
Weights = dict[str, torch.Tensor]


@pytest.fixture
def cfg(tiny_cfg: CfgNode) -> CfgNode:
    tiny_cfg.SOLVER.EMA_DECAY, tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD = DECAY, 6, 2
    return tiny_cfg


class Watched(Trainer):
    """Records the weights after each step, and those of each evaluation."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.steps: list[Weights] = []
        self.scored: list[Weights] = []

    def run_step(self) -> None:
        if not self.steps:
            self.steps.append(weights(self.model))
        super().run_step()
        self.steps.append(weights(self.model))

    def evaluate(self) -> dict:
        self.scored.append(weights(self.evaluated_model))
        return super().evaluate()


def weights(model: torch.nn.Module) -> Weights:
    return {key: value.clone() for key, value in model.state_dict().items()}


def evaluate(cfg: CfgNode, file: Path, folder: Path) -> dict:
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(file), str(folder)
    default_setup(cfg, Namespace(eval_only=True))
    return Trainer.test_weights(cfg)


def test_evaluations_use_the_average_of_all_steps(cfg: CfgNode, tmp_path: Path) -> None:
    trainer = train(cfg, tmp_path / "run", kind=Watched)
    expected = trainer.steps[0]
    averages = [expected]
    for step in trainer.steps[1:]:
        expected = {key: DECAY * value + (1 - DECAY) * step[key] for key, value in expected.items()}
        averages.append(expected)
    assert len(trainer.scored) == 4, "before the training, after 2 and 4 iterations, and at the end"
    for done, scored in zip((0, 2, 4, 6), trainer.scored, strict=True):
        for key, value in averages[done].items():
            torch.testing.assert_close(scored[key], value.to(scored[key].dtype))
    assert not torch.allclose(trainer.scored[-1]["sem_seg_head.weight"], trainer.steps[-1]["sem_seg_head.weight"])

    content = trained(tmp_path / "run/model_final.pth")
    assert same(content["model"]["sem_seg_head.weight"], trainer.model.sem_seg_head.weight.detach())
    assert not [key for key in content["ema"] if key.startswith("backbone.")]
    averaged = trained(tmp_path / "run/model_ema.pth")
    assert averaged.keys() & {"optimizer", "ema", "scheduler"} == set()
    assert averaged["model"].keys() == content["model"].keys()
    assert same({key: averaged["model"][key] for key in content["ema"]}, content["ema"])


@pytest.mark.parametrize("name", ["model_ema.pth", "model_final.pth"])
def test_the_final_score_is_that_of_the_files(cfg: CfgNode, tmp_path: Path, name: str) -> None:
    cfg.SOLVER.EMA_DECAY = 0.95
    trainer = train(cfg, tmp_path / "run", kind=Watched)
    assert evaluate(cfg, tmp_path / "run" / name, tmp_path / "eval") == trainer.results
    assert last_table(tmp_path / "eval") == last_table(tmp_path / "run")
    assert Trainer.test(trainer.cfg, trainer.model) != trainer.results, "which is not that of the last weights"
    resumed = cfg.clone()
    resumed.OUTPUT_DIR = str(tmp_path / "run")
    default_setup(resumed, Namespace(eval_only=True, resume=True))
    assert Trainer.test_weights(resumed, resume=True) == trainer.results
    # A training that starts from the file starts from the weights that were evaluated.
    cfg.MODEL.WEIGHTS, cfg.SOLVER.EMA_DECAY, cfg.SOLVER.MAX_ITER = str(tmp_path / "run" / name), 0.0, 1
    second = train(cfg, tmp_path / "second", kind=Watched)
    assert same(second.steps[0], trainer.scored[-1])


def test_the_best_weights_are_averaged_ones(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.TEST.SELECT_ON = "tiny_val"
    trainer = train(cfg, tmp_path / "run", kind=Watched)
    best = trained(tmp_path / "run/model_best.pth")
    scored = trainer.scored[(best["iteration"] + 1) // 2]
    assert same(best["model"], {key: scored[key] for key in best["model"]})
    score = evaluate(cfg, tmp_path / "run/model_best.pth", tmp_path / "eval")["tiny_val"]["sem_seg"]["mIoU"]
    assert score == best["score"]


@pytest.mark.parametrize("at", [0, 3])
def test_a_resumed_run_ends_with_the_same_average(cfg: CfgNode, tmp_path: Path, at: int) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    train(cfg, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(cfg, tmp_path / "killed", kind=type("Dying", (Killed,), {"at": at}))
    train(cfg, tmp_path / "killed", resume=True)
    for name in ("model_final.pth", "model_ema.pth"):
        assert same(trained(tmp_path / "killed" / name), trained(tmp_path / "straight" / name)), name
    assert rows(tmp_path / "killed") == rows(tmp_path / "straight")


def test_a_damaged_average_is_refused(cfg: CfgNode, tmp_path: Path) -> None:
    train(cfg, tmp_path / "run")
    file = tmp_path / "run/model_final.pth"
    content = torch.load(file)
    for damaged, reason in (
        ("x", "ema is 'x' and should be a dict"),
        ({"sem_seg_head.bias": torch.full((3,), torch.nan)}, "ema.sem_seg_head.bias is "),
        ({**content["ema"], "y": torch.ones(1)}, "ema has the unknown entry 'y'"),
    ):
        torch.save({**content, "ema": damaged}, file)
        with pytest.raises(
            UserError, match=rf"model_final\.pth cannot be used: {reason}.*; take another checkpoint\.$"
        ):
            evaluate(cfg, file, tmp_path / "eval")


def test_a_run_that_had_no_average_starts_one(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.SOLVER.EMA_DECAY = 0.0
    train(cfg, tmp_path / "run")
    assert not (tmp_path / "run/model_ema.pth").exists()
    cfg.SOLVER.EMA_DECAY, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = DECAY, 7, str(tmp_path / "run")
    default_setup(cfg, Namespace(resume=True, resume_anyway=True))
    trainer = Watched(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    before, after = (step["sem_seg_head.weight"] for step in trainer.steps)
    torch.testing.assert_close(trainer.scored[-1]["sem_seg_head.weight"], before.lerp(after, 1 - DECAY))
    assert "holds no state of the ema: it starts from its initial state" in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize("backbone", ["CLIP", "TrainableCLIP"])
def test_the_folder_of_a_run_loads_what_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    write_images(tmp_path / "data/train", 4)
    write_images(tmp_path / "data/val", 2, seed=1)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(tmp_path)
    file = write_config(tmp_path / "c.yaml", backbone=backbone, plugin="plugin_for_averages")
    opts = ("SOLVER.EMA_DECAY", DECAY, "SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0)
    cfg = load_config(str(file), [*opts])
    trainer = train(cfg, tmp_path / "run", kind=Watched)
    frozen = {p.data_ptr() for p in trainer.model.backbone.parameters() if not p.requires_grad}
    assert len({p.data_ptr() for p in trainer.evaluated_model.parameters()} & frozen) == len(frozen)
    loaded = clouds.load(tmp_path / "run", device="cpu").network.state_dict()
    assert same({key: loaded[key] for key in loaded}, {key: trainer.scored[-1][key] for key in loaded})
    assert not same(loaded, weights(trainer.model))
