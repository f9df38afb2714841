"""When checkpoints are saved in a training, by iterations, by the clock and on demand, and which weights are best."""

import errno
import json
import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from clouds.config import load_config
from clouds.d2 import CfgNode, EventStorage, HookBase
from clouds.data.datasets import catalog
from clouds.data.datasets.catalog import domain
from clouds.engine.checkpointing.build import checkpoint_period
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.evaluation import report_selection
from clouds.engine.hooks import PeriodicCheckpoint, checkpointing
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError, WriteError
from tests.engine.test_resume import rows, same, trained

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MINUTE = 60.0  # seconds


class Clock:
    """Stands in for `time`: a training step takes a minute."""

    def __init__(self) -> None:
        self.seconds, self.read = 0.0, 0

    def monotonic(self) -> float:
        self.read += 1
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(checkpointing, "time", clock)
    return clock


class Timed(Trainer):
    """Trainer whose step takes a minute, and that calls `then` after the hooks of each step."""

    clock: Clock

    def run_step(self) -> None:
        super().run_step()
        self.clock.seconds += MINUTE

    def then(self) -> None:
        pass

    def after_step(self) -> None:
        super().after_step()
        self.then()

    @property
    def hook(self) -> PeriodicCheckpoint:
        return next(hook for hook in self._hooks if isinstance(hook, PeriodicCheckpoint))


def train(cfg: CfgNode, kind: type[Trainer] = Trainer, *, resume: bool = False, **attributes: Any) -> Trainer:
    default_setup(cfg, Namespace(resume=resume, eval_only=False))
    trainer = type("Kind", (kind,), attributes)(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def checkpoints(folder: Path | str) -> list[str]:
    return sorted(path.stem.removeprefix("model_").lstrip("0") for path in Path(folder).glob("model_*.pth"))


def test_by_the_clock_and_by_iterations(tiny_cfg: CfgNode, clock: Clock) -> None:
    tiny_cfg.SOLVER.CHECKPOINT_MINUTES, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 3.0, 5
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINTS_KEPT = 14, 0
    train(tiny_cfg, Timed, clock=clock)
    # After 3 steps; after 5, which starts the clock again; 8; 10; 13.
    assert checkpoints(tiny_cfg.OUTPUT_DIR) == ["12", "2", "4", "7", "9", "final"]


@pytest.mark.parametrize(("minutes", "saved"), [(0.0, []), (2.5, ["2", "5", "8"])])
def test_the_clock_alone(tiny_cfg: CfgNode, clock: Clock, minutes: float, saved: list[str]) -> None:
    tiny_cfg.SOLVER.CHECKPOINT_MINUTES, tiny_cfg.TEST.EVAL_PERIOD = minutes, 0
    train(tiny_cfg, Timed, clock=clock)
    assert checkpoints(tiny_cfg.OUTPUT_DIR) == [*saved, "final"]


def test_only_the_main_process_reads_the_clock(tmp_path: Path, clock: Clock) -> None:
    """A process that saves nothing does not decide, and does not ask the others."""
    model = torch.nn.Linear(1, 1)
    for main in (True, False):
        hook = PeriodicCheckpoint(Checkpointer(model, str(tmp_path / str(main)), save_to_disk=main), 0, minutes=1.0)
        (tmp_path / str(main)).mkdir()
        hook.trainer = Namespace(iter=4, max_iter=9, seed=1, storage=EventStorage(4))
        hook.before_train()
        clock.seconds += 2 * MINUTE
        read = clock.read
        hook.after_step()
        hook.after_train()
        assert (clock.read > read) is main
        assert checkpoints(tmp_path / str(main)) == ["4"] * main


def test_a_checkpoint_of_the_clock_is_resumed_from(tiny_cfg: CfgNode, tmp_path: Path, clock: Clock) -> None:
    """The result is that of a training without it, and of one that was never interrupted."""

    def die(trainer: Timed) -> None:
        if trainer.iter == 7:
            raise KeyboardInterrupt

    tiny_cfg.SOLVER.CHECKPOINT_MINUTES, tiny_cfg.OUTPUT_DIR = 0.0, str(tmp_path / "straight")
    train(tiny_cfg.clone(), Timed, clock=clock)
    tiny_cfg.SOLVER.CHECKPOINT_MINUTES, tiny_cfg.OUTPUT_DIR = 3.0, str(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_cfg.clone(), Timed, clock=clock, then=die)
    assert checkpoints(tmp_path / "killed") == ["2", "5"]
    assert train(tiny_cfg, Timed, clock=clock, resume=True).start_iter == 6
    assert rows(tmp_path / "killed") == rows(tmp_path / "straight")
    ours, theirs = (trained(tmp_path / name / "model_final.pth") for name in ("killed", "straight"))
    assert same(ours, theirs)


@pytest.mark.parametrize("period", [0, 4])
def test_save_now(tiny_cfg: CfgNode, tmp_path: Path, clock: Clock, period: int) -> None:
    """The current state is on disk on return, and is not written twice; its content is that of any checkpoint."""
    written: list[str] = []

    def stop(trainer: Timed) -> None:
        if trainer.iter == 3:  # after the evaluation of this iteration, whose scores are on record
            save = trainer.checkpointer.save
            trainer.checkpointer.save = lambda name, **extra: (written.append(name), save(name, **extra))
            trainer.hook.save_now()
            assert (Path(trainer.cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000003.pth"
            trainer.hook.save_now()
            raise KeyboardInterrupt

    tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 4, period
    straight = tiny_cfg.clone()
    straight.OUTPUT_DIR, straight.SOLVER.CHECKPOINT_PERIOD = str(tmp_path / "straight"), 4
    train(straight, Timed, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_cfg.clone(), Timed, clock=clock, then=stop)
    assert written == ([] if period else ["model_0000003"])
    ours, theirs = (Path(cfg.OUTPUT_DIR) / "model_0000003.pth" for cfg in (tiny_cfg, straight))
    assert same(trained(ours), trained(theirs))
    train(tiny_cfg, resume=True)
    assert rows(tiny_cfg.OUTPUT_DIR) == rows(straight.OUTPUT_DIR)


def full_disk_from(iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(content: dict[str, Any], file: Any) -> None:
        if content["iteration"] >= iteration:
            raise WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"model_{content['iteration']:07d}.pth")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)


@pytest.mark.parametrize("final", [False, True])
def test_a_file_that_cannot_be_written_ends_the_training(
    tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, final: bool
) -> None:
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD, tiny_cfg.TEST.EVAL_PERIOD = 5 if final else 2, 0
    straight = tiny_cfg.clone()
    straight.OUTPUT_DIR += "-straight"
    train(straight)
    ended: list[int] = []

    def then(trainer: Timed) -> None:
        ended.append(trainer.iter)
        trainer.checkpointer._writing and trainer.checkpointer._writing.join()

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="its disk is full"):
        full_disk_from(9 if final else 5, patch)
        train(tiny_cfg.clone(), Timed, clock=Clock(), then=then)
    assert ended[-1] == (9 if final else 5), "the next iteration raises"
    assert (Path(tiny_cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == f"model_000000{4 if final else 3}.pth"
    assert not list(Path(tiny_cfg.OUTPUT_DIR).glob("*.part"))
    train(tiny_cfg, resume=True)
    assert rows(tiny_cfg.OUTPUT_DIR) == rows(straight.OUTPUT_DIR)


def test_of_two_failures_the_first_is_reported(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training fails while a checkpoint is written, which fails later."""
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD, tiny_cfg.TEST.EVAL_PERIOD = 2, 0
    full_disk_from(1, monkeypatch)

    class Broken(HookBase):
        def after_step(self) -> None:
            if self.trainer.iter == 1:
                raise UserError("another problem")

    class Failing(Trainer):
        def build_hooks(self) -> list[HookBase]:
            return [*super().build_hooks(), Broken()]

    with pytest.raises(UserError, match="another problem"):
        train(tiny_cfg, Failing)
    log = (Path(tiny_cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert "The last checkpoint could not be written: " in log
    assert "model_0000001.pth cannot be written (its disk is full): make room" in log
    assert "Traceback" not in log


def test_every_config_saves_by_the_clock() -> None:
    files = [*CONFIGS.glob("**/warmup/*/*.yaml"), *CONFIGS.glob("**/joint_training/*/*.yaml")]
    assert len(files) == 18 + 48
    for cfg in map(load_config, files):
        assert (cfg.SOLVER.CHECKPOINT_MINUTES, cfg.SOLVER.CHECKPOINTS_KEPT, cfg.TEST.SELECT_ON) == (10, 3, "")
        assert checkpoint_period(cfg) == 5 * cfg.TEST.EVAL_PERIOD, "as published"


class Scored(Trainer):
    """Trainer with given scores after given numbers of iterations."""

    scores: dict[int, float]
    at: int | None = None

    @classmethod
    def test(cls, cfg: CfgNode, model: Any, *, seed: int | None = None, **_: object) -> dict:
        return {name: {"sem_seg": {"mIoU": 0.0}} for name in cfg.DATASETS.TEST}

    def evaluate(self) -> dict:
        done = self.scheduler.last_epoch
        self.results = {
            **self.test(self.cfg, self.model),
            self.cfg.TEST.SELECT_ON: {"sem_seg": {"mIoU": self.scores[done]}},
        }
        return self.results

    def after_step(self) -> None:
        super().after_step()
        if self.iter == self.at:
            self.checkpointer.wait()
            raise KeyboardInterrupt


SCORES = {0: 99.0, 2: 30.0, 4: 50.0, 6: float("nan"), 8: 50.0, 10: 40.0}


def best(cfg: CfgNode) -> tuple[int, float]:
    content = torch.load(Path(cfg.OUTPUT_DIR) / "model_best.pth", weights_only=True)
    assert content["selected_on"] == cfg.TEST.SELECT_ON
    return content["iteration"], content["score"]


@pytest.fixture
def selecting(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    tiny_cfg.TEST.SELECT_ON, tiny_cfg.DATASETS.TEST = "tiny_val", ()
    tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 2, 3
    return tiny_cfg


class TestBest:
    def test_the_highest_score_of_a_trained_state(self, selecting: CfgNode) -> None:
        train(selecting, Scored, scores=SCORES)
        assert best(selecting) == (3, 50.0)

    @pytest.mark.slow
    @pytest.mark.parametrize("at", [3, 4, 6, 8])
    @pytest.mark.parametrize("last", [40.0, 60.0])
    def test_a_resumed_run_knows_it(self, selecting: CfgNode, at: int, last: float) -> None:
        scores = {**SCORES, 10: last}
        with pytest.raises(KeyboardInterrupt):
            train(selecting.clone(), Scored, scores=scores, at=at)
        assert best(selecting) == (3, 50.0)
        resumed = train(selecting, Scored, scores=scores, resume=True)
        assert resumed.start_iter == 3 * ((at + 1) // 3)
        assert best(selecting) == ((3, 50.0) if last == 40 else (9, 60.0))

    def test_lower_scores_after_a_resume_replace_nothing(self, selecting: CfgNode) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(selecting.clone(), Scored, scores=SCORES, at=6)
        train(selecting, Scored, scores=dict.fromkeys(SCORES, 45.0), resume=True)
        assert best(selecting) == (3, 50.0)

    def test_another_set_begins_anew(self, selecting: CfgNode) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(selecting.clone(), Scored, scores=SCORES, at=6)
        selecting.TEST.SELECT_ON = "tiny_train"
        train(selecting, Scored, scores=SCORES, resume=True)
        assert best(selecting) == (7, 50.0)

    def test_killed_between_the_best_and_the_record(self, selecting: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
        """The evaluation is repeated, so no score is without its weights, whichever of the two came first."""
        selecting.SOLVER.CHECKPOINT_PERIOD = 2
        order: list[str] = []
        update = checkpointing.BestCheckpoint.update

        def updated(self: Any, results: Any, done: int, seed: int) -> None:
            update(self, results, done, seed)
            assert not any("tiny_val/sem_seg/mIoU" in row and row["iteration"] == done - 1 for row in known())
            order.append(str(done))
            if done == 4:
                raise KeyboardInterrupt

        def known() -> list[dict]:
            return rows(selecting.OUTPUT_DIR)

        with monkeypatch.context() as patch:
            patch.setattr(checkpointing.BestCheckpoint, "update", updated)
            with pytest.raises(KeyboardInterrupt):
                train(selecting.clone(), Scored, scores=SCORES)
        assert (order, best(selecting)) == (["0", "2", "4"], (3, 50.0))
        assert train(selecting, Scored, scores=SCORES, resume=True).start_iter == 4
        assert [row["iteration"] for row in known() if "tiny_val/sem_seg/mIoU" in row] == [0, 1, 3, 7, 10]

    def test_a_real_evaluation_and_what_uses_the_file(self, tiny_cfg: CfgNode, tmp_path: Path) -> None:
        tiny_cfg.TEST.SELECT_ON, tiny_cfg.DATASETS.TEST = "tiny_val", ("tiny_train",)
        trainer = train(tiny_cfg)
        assert list(trainer.results) == ["tiny_train", "tiny_val"], "it is scored, too"
        at, score = best(tiny_cfg)
        name = "tiny_val/sem_seg/mIoU"
        assert score == max(row[name] for row in rows(tiny_cfg.OUTPUT_DIR)[1:] if name in row)
        evaluated = tiny_cfg.clone()
        evaluated.defrost()
        evaluated.MODEL.WEIGHTS, evaluated.OUTPUT_DIR = f"{tiny_cfg.OUTPUT_DIR}/model_best.pth", str(tmp_path / "eval")
        default_setup(evaluated, Namespace(resume=False, eval_only=True))
        assert Trainer.test_weights(evaluated)["tiny_val"]["sem_seg"]["mIoU"] == score
        assert json.loads((tmp_path / "eval/metrics_eval.json").read_text())["iteration"] == at + 1

    def test_an_unknown_set_is_refused_before_the_training(self, tiny_cfg: CfgNode) -> None:
        tiny_cfg.TEST.SELECT_ON = "tiny_vall"
        with pytest.raises(UserError, match="no data set called 'tiny_vall': did you mean tiny_val"):
            train(tiny_cfg)

    def test_a_set_of_other_classes_is_refused(self, tiny_cfg: CfgNode, tiny_root: Path) -> None:
        folder = tiny_root / "val"
        catalog.register(
            "others_val",
            lambda: catalog.pair_by_stem(
                "others_val", folder / "images", ".png", folder / "labels", "_labelTrainIds.png"
            ),
            classes=("a", "b", "c"),
            colors=((0, 0, 0),) * 3,
        )
        tiny_cfg.TEST.SELECT_ON = "others_val"
        with pytest.raises(UserError, match=r"others_val \(TEST.SELECT_ON\) has other classes than tiny_train \(DATA"):
            train(tiny_cfg)


class TestDomains:
    def test_names(self, tmp_path: Path) -> None:
        catalog.register_datasets(tmp_path)
        names = {"cityscapes_train": "cityscapes", "cityscapes_val": "cityscapes", "gta5": "gta5"}
        names |= {
            "acdc_night_val": "acdc_night",
            "sd_llama70b_v2": "sd_llama70b_v2",
            "never_registered": "never_registered",
        }
        assert {name: domain(name) for name in names} == names

    def test_a_yaml_file_is_one_domain(self, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text(
            "name: own\nclasses: cityscapes\nsplits:\n"
            "  here: {images: 'a/*.png', labels: 'b/*.png'}\n  held_out: {images: 'c/*.png', labels: 'd/*.png'}\n"
        )
        catalog.register_datasets(tmp_path, custom=[str(tmp_path / "own.yaml")])
        assert domain("own_here") == domain("own_held_out") == "own"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("", ""),
            ("cityscapes_val", ""),
            ("bdd_val", "of another domain than cityscapes_train, sd_llama70b_v2 (DATASETS.TRAIN)"),
            ("cityscapes_train", "which is trained on"),
            ("cityscapes_holdout", "among those of cityscapes_train (DATASETS.TRAIN): the best weights on it may be"),
            ("cityscapes_holdout", "overfitted; train on cityscapes_fit instead"),
            ("cityscapes_fit", "among those of cityscapes_train (DATASETS.TRAIN)"),
        ],
    )
    def test_one_line_for_another_domain(
        self, tiny_cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, said: str
    ) -> None:
        catalog.register_datasets(tmp_path)
        tiny_cfg.DATASETS.TRAIN, tiny_cfg.TEST.SELECT_ON = ("cityscapes_train", "sd_llama70b_v2"), name
        with caplog.at_level(logging.INFO):
            report_selection(tiny_cfg)
        assert [said in record.getMessage() for record in caplog.records] == [True] * bool(said)
        assert ("no longer those of an unseen domain" in caplog.text) is (name == "bdd_val")

    def test_the_held_out_images_of_a_source_may_be_selected_on(
        self, tiny_cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        catalog.register_datasets(tmp_path)
        tiny_cfg.DATASETS.TRAIN, tiny_cfg.TEST.SELECT_ON = ("gta5_fit", "sd_llama70b_v2"), "gta5_holdout"
        report_selection(tiny_cfg)
        assert not caplog.records
