"""The final scores of runs as one table: ``clouds report``."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from clouds.commands import report
from clouds.d2 import CfgNode
from clouds.engine.run.summary import summarize
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer


def train(cfg: CfgNode, *, iterations: int) -> Path:
    cfg = cfg.clone()
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = iterations, 1
    default_setup(cfg, Namespace(resume=False, eval_only=False))
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    return Path(cfg.OUTPUT_DIR)


def evaluate(cfg: CfgNode, weights: Path, folder: Path) -> Path:
    cfg = cfg.clone()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.TEST.PROTOCOL = str(folder), str(weights), "published_short_edge"
    default_setup(cfg, Namespace(resume=False, eval_only=True))
    Trainer.test_weights(cfg)
    return folder


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_a_training_and_an_evaluation(tiny_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tiny_cfg, iterations=2)
    evaluation = evaluate(tiny_cfg, run / "model_final.pth", tmp_path / "evaluation")
    rows = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    scores = [row["tiny_val/sem_seg/mIoU"] for row in rows if "tiny_val/sem_seg/mIoU" in row]
    assert scores[-1] != scores[0], "or the test would not tell the last row from the first"
    capsys.readouterr()

    assert report.main([str(run), str(evaluation)]) == 0
    rows_of_it, _, said = capsys.readouterr().out.partition("\n\n")
    assert "are not compared: they were measured by different protocols" in said
    assert table(rows_of_it) == [
        ["mIoU in %", "trained on", "seed", "protocol", "tiny_val"],
        ["---"] * 5,
        [str(run), "tiny_train", "3", "full_resolution", f"{scores[-1]:.2f}"],
        [str(evaluation), "tiny_train", "3", "published_short_edge", f"{scores[-1]:.2f}"],
    ]
    evaluate(tiny_cfg, run / "model_final.pth", run)
    assert report.main([str(run)]) == 0
    assert "full_resolution" in capsys.readouterr().out, "the training's own row"


def test_windows_and_augmentation_are_named(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    run = train(tiny_cfg, iterations=1)
    tiny_cfg.TEST.AUG.ENABLED, tiny_cfg.TEST.WINDOW, tiny_cfg.TEST.STRIDE = True, 32, 24
    folder = evaluate(tiny_cfg, run / "model_final.pth", tmp_path / "evaluation")
    name = "published_short_edge (TEST.WINDOW 32, TEST.STRIDE 24, TEST.AUG)"
    assert [each.protocol for each in summarize(folder)] == [name]
    assert json.loads((folder / "metrics_eval.json").read_text())["protocol"] == name


def test_no_scores(tiny_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = tiny_cfg.clone()
    cfg.DATASETS.TEST = ()
    for folder in (tmp_path / "none", train(cfg, iterations=1)):
        assert report.main([str(folder)]) == 2
        assert f"error: {folder} has no final scores: give the OUTPUT_DIR" in capsys.readouterr().err
