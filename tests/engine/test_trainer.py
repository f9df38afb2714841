"""The real loop, loaders, evaluator and writers with a network of one convolution."""

import json
import logging
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clouds.d2 import CfgNode
from clouds.data.datasets import catalog
from clouds.data.datasets.digest import dataset_digest
from clouds.data.loading.loaders import TrainLoader
from clouds.engine.log import start_log
from clouds.engine.losses import NonFiniteLoss
from clouds.engine.setup import default_setup, seed_everything
from clouds.engine.trainer import Trainer
from clouds.errors import UserError, WriteError
from clouds.evaluation.files import final_evaluation, mean_iou, read_evaluation
from tests.engine.conftest import CLASSES, COLORS


class Recorder(Trainer):
    """Records the iterations at which it evaluates."""

    def evaluate(self) -> dict:
        self.__dict__.setdefault("evaluated", []).append(self.iter)
        return super().evaluate()


def train(cfg: CfgNode, *, resume: bool = False, kind: type[Trainer] = Recorder) -> Recorder:
    cfg = cfg.clone()
    default_setup(cfg, Namespace(resume=resume))
    trainer = kind(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def metrics(cfg: CfgNode) -> list[dict]:
    return [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_learns_and_writes_everything_down(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD = 25, 8
    trainer = train(tiny_cfg)
    # 25: the state after the last step.
    assert trainer.evaluated == [0, 7, 15, 23, 25]
    rows = metrics(tiny_cfg)
    losses = {row["iteration"]: row["total_loss"] for row in rows if "total_loss" in row}
    assert sorted(losses) == [7, 15, 19, 23, 24], "every 20 iterations, at evaluations and at the end"
    assert losses[24] < 0.5 * losses[7]
    assert rows[-2]["iteration"] == 24
    assert rows[-2].keys() >= {"loss_ce", "loss_noise", "lr", "time", "data_time", "eta_seconds"}
    assert rows[-2]["lr"] == pytest.approx(0.1)

    scores = {row["iteration"]: row["tiny_val/sem_seg/mIoU"] for row in rows if "tiny_val/sem_seg/mIoU" in row}
    assert sorted(scores) == [0, 7, 15, 23, 25]
    assert scores[25] == trainer.results["tiny_val"]["sem_seg"]["mIoU"] > max(90, scores[0])

    output = Path(tiny_cfg.OUTPUT_DIR)
    log = (output / "log.txt").read_text()
    assert "eta: " in log
    assert "iter: 24" in log
    assert "protocol full_resolution" in log
    assert "seed 3" in log
    assert list(output.glob("events.out.tfevents*"))
    assert CfgNode.load_yaml_with_base(str(output / "config.yaml"))["SEED"] == 3


def test_period_zero_leaves_the_evaluation_at_the_end(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD = 3, 0
    assert train(tiny_cfg).evaluated == [3]


def test_an_end_on_the_period_is_evaluated_once(tiny_cfg: CfgNode) -> None:
    assert train(tiny_cfg).evaluated == [0, 4, 10]


def test_checkpoints_come_every_fifth_evaluation_and_at_the_end(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD = 7, 1
    trainer = train(tiny_cfg)
    output = Path(tiny_cfg.OUTPUT_DIR)
    assert sorted(path.name for path in output.glob("*.pth")) == ["model_0000004.pth", "model_final.pth"]
    content = torch.load(output / "model_final.pth", weights_only=True)
    parts = {"optimizer", "scheduler", "data"}
    identity = {"run", "settings", "tower_sha256", "classes", "seed"}
    assert content.keys() == {"model", *identity, *parts, "iteration", "history"}
    trained = {"norm.weight", "norm.bias", "sem_seg_head.weight", "sem_seg_head.bias", "needed"}
    assert content["model"].keys() == trained
    assert (content["iteration"], content["seed"], content["data"]["position"]) == (6, 3, 28)
    assert same(content["model"], {key: weights(trainer)[key] for key in trained})


@pytest.mark.parametrize(
    ("key", "value"), [("SOLVER.CHECKPOINT_FROZEN", True), ("MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", "")]
)
def test_the_tower_is_stored_on_demand_and_where_no_file_brings_it_back(
    tiny_cfg: CfgNode, key: str, value: object
) -> None:
    tiny_cfg.merge_from_list([key, value])
    tiny_cfg.SOLVER.MAX_ITER = tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 2
    trainer = train(tiny_cfg)
    output = Path(tiny_cfg.OUTPUT_DIR)
    assert [path.name for path in output.glob("*.pth")] == ["model_final.pth"]
    assert same(torch.load(output / "model_final.pth")["model"], weights(trainer))


def test_a_resumed_run_ends_where_the_straight_one_does(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    tiny_cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = ""  # a random backbone must be stored
    straight = train(tiny_cfg)

    class Killed(Recorder):
        def run_step(self) -> None:
            if self.iter == 6:
                raise KeyboardInterrupt
            super().run_step()

    tiny_cfg.OUTPUT_DIR = str(tmp_path / "killed")
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 3
    with pytest.raises(KeyboardInterrupt):
        train(tiny_cfg, kind=Killed)
    assert not (tmp_path / "killed" / "model_final.pth").exists()
    tiny_cfg.SEED = -1  # the run keeps its first seed
    resumed = train(tiny_cfg, resume=True)
    assert resumed.start_iter == 6
    assert CfgNode.load_yaml_with_base(str(tmp_path / "killed" / "config.yaml"))["SEED"] == 3
    assert resumed.evaluated == [10], "evaluates neither before its first step nor at an iteration that has passed"
    assert same(weights(resumed), weights(straight))
    assert resumed.results == straight.results

    again = train(tiny_cfg, resume=True)
    assert again.start_iter == 10
    assert again.results == straight.results, "a finished run is evaluated, not trained"
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert "Nothing left to train" in log


def test_a_longer_schedule_holds_from_the_first_resumed_step(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.LR_SCHEDULER_NAME, tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD = "WarmupPolyLR", 2, 0
    train(tiny_cfg)
    used = []

    class Watched(Trainer):
        def run_step(self) -> None:
            used.append(self.optimizer.param_groups[0]["lr"])
            super().run_step()

    tiny_cfg.SOLVER.MAX_ITER = 4
    train(tiny_cfg, resume=True, kind=Watched)
    assert used == pytest.approx([0.1 * (1 - i / 4) ** 0.9 for i in (2, 3)])


def test_resume_without_a_checkpoint_starts_from_the_beginning(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.MAX_ITER = 2
    trainer = train(tiny_cfg, resume=True)
    assert trainer.start_iter == 0
    assert "No checkpoint in" in (Path(tiny_cfg.OUTPUT_DIR) / "log.txt").read_text()


def test_an_unknown_architecture_is_a_sentence(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.META_ARCHITECTURE = "TinySegmentor"
    with pytest.raises(UserError, match=r"MODEL\.META_ARCHITECTURE names 'TinySegmentor'.*: TinySegmenter"):
        Trainer.build_model(tiny_cfg)


def test_self_training_needs_the_parts_of_a_student(tiny_cfg: CfgNode) -> None:
    class SelfTrainer(Trainer):
        @classmethod
        def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.CLOUDS.SAM.MINIBATCH = False  # a joint training samples two kinds of data sets
            return super().build_train_loader(cfg)

    tiny_cfg.MODEL.CLOUDS.SAM.MINIBATCH = True
    with pytest.raises(UserError, match=r"TinySegmenter \(MODEL\.META_ARCHITECTURE\) has no train_classes, .*canvas, "):
        SelfTrainer(tiny_cfg)


def test_evaluation_does_not_change_the_training(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    often = train(tiny_cfg)
    tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.OUTPUT_DIR = 0, str(tmp_path / "other")
    assert same(weights(often), weights(train(tiny_cfg)))
    tiny_cfg.SEED, tiny_cfg.OUTPUT_DIR = 4, str(tmp_path / "third")
    assert not same(weights(often), weights(train(tiny_cfg)))


def test_saved_weights_score_what_training_printed(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = ""
    trainer = train(tiny_cfg)
    tiny_cfg.MODEL.WEIGHTS = f"{tiny_cfg.OUTPUT_DIR}/model_final.pth"
    tiny_cfg.OUTPUT_DIR, tiny_cfg.SEED = str(tmp_path / "eval"), -1
    default_setup(tiny_cfg, Namespace())
    assert Trainer.test_weights(tiny_cfg) == trainer.results

    training = (tmp_path / "run" / "log.txt").read_text()
    evaluation = (tmp_path / "eval" / "log.txt").read_text().rpartition("Results\n")[2].strip()
    assert "seed 3" in evaluation
    assert evaluation in training, "the very same table, with the seed of the training"

    with (tmp_path / "eval/metrics_eval.json").open("a") as file:
        file.write('{"cut of')
    tiny_cfg.defrost()
    tiny_cfg.MODEL.WEIGHTS, tiny_cfg.OUTPUT_DIR = "", str(tmp_path / "run")
    Trainer.test_weights(tiny_cfg, resume=True)
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "eval")
    Trainer.test_weights(tiny_cfg)
    first, last = (json.loads(line) for line in (tmp_path / "eval/metrics_eval.json").read_text().splitlines())
    (resumed,) = (json.loads(line) for line in (tmp_path / "run/metrics_eval.json").read_text().splitlines())
    assert first["tiny_val/sem_seg/mIoU"] == trainer.results["tiny_val"]["sem_seg"]["mIoU"]
    assert first["weights"].endswith("model_final.pth")
    assert (first["iteration"], first["protocol"], last["weights"]) == (10, "full_resolution", "")
    assert resumed == first | {"time": resumed["time"]}, "the same file, found in another way"
    assert "iteration" not in last

    files = final_evaluation(tmp_path / "run")
    assert files and files.folder.name == "0000010", "of the training, although an evaluation came later"
    of_training = files.about
    one, other = (read_evaluation(path) for path in sorted((tmp_path / "eval/evaluations").iterdir()))
    of_weights = one.about
    ending = json.loads((tmp_path / "run/run.json").read_text())[0]["ending"]
    for name in ("weights_sha256", "tower_sha256"):
        assert of_training[name] == of_weights[name] == ending[name], name
    assert of_weights["weights"].endswith("model_final.pth") and of_training["weights"] == ""
    for about in (of_training, of_weights):
        assert (about["iteration"], about["seed"], about["protocol"]) == (10, 3, "full_resolution")
        assert about["images"] == {"tiny_val": len(catalog.load_dataset("tiny_val"))}
        assert about["data"] == {"tiny_val": dataset_digest(catalog.load_dataset("tiny_val"))}
        assert about["scores"] == trainer.results
    assert other.about["iteration"] is None and other.about["weights_sha256"] != of_weights["weights_sha256"]
    counts = files.counts("tiny_val")
    assert mean_iou(counts.counts.sum(axis=0)) == pytest.approx(trainer.results["tiny_val"]["sem_seg"]["mIoU"])
    np.testing.assert_array_equal(counts.counts, one.counts("tiny_val").counts)


def shown(folder: Path) -> list[int]:
    """Return the iterations of the predictions in the TensorBoard files of a folder."""
    files = [EventAccumulator(str(file)).Reload() for file in folder.glob("events.out.tfevents.*")]
    return sorted(event.step for file in files for tag in file.Tags()["images"] for event in file.Images(tag))


def test_tensorboard_shows_images_of_every_test_set(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.TEST.PROTOCOLS = ("full_resolution", "published_short_edge")
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.TEST.SHOWN_IMAGES = 2, 0, 2
    tiny_cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = ""
    evaluators = Trainer.build_evaluators(tiny_cfg, "tiny_val").evaluators
    ids = [record["image_id"] for record in catalog.load_dataset("tiny_val")]
    assert [evaluator.shown for evaluator in evaluators.values()] == [(ids[0], ids[2]), ()]
    train(tiny_cfg)
    (file,) = (tmp_path / "run").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert events.Tags()["images"] == ["predictions/tiny_val"]
    (image,) = events.Images("predictions/tiny_val")
    assert image.step == 2 and image.width > 3 * 320
    tiny_cfg.MODEL.WEIGHTS, tiny_cfg.OUTPUT_DIR = str(tmp_path / "run/model_final.pth"), str(tmp_path / "eval")
    default_setup(tiny_cfg, Namespace(eval_only=True))
    Trainer.test_weights(tiny_cfg)
    (folder,) = (tmp_path / "eval/evaluations").iterdir()
    assert shown(folder) == [2]
    tiny_cfg.defrost()
    tiny_cfg.TEST.SHOWN_IMAGES = 0
    assert not Trainer.build_evaluators(tiny_cfg, "tiny_val").evaluators["full_resolution"].shown


def test_a_resumed_run_writes_the_files_of_its_evaluations_again(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.TEST.SHOWN_IMAGES, tiny_cfg.SOLVER.EMA_DECAY = 5, 1, 0.5
    train(tiny_cfg)
    folder = tmp_path / "run/evaluations"
    assert sorted(path.name for path in folder.iterdir()) == ["0000000", "0000005", "0000010"]
    before = read_evaluation(folder / "0000010").about
    assert shown(tmp_path / "run") == [0, 4, 10], "of the rows of metrics.json"
    for name in ("0000005", "0000010"):
        (folder / name / "scores.json").unlink()
    train(tiny_cfg, resume=True)
    after = final_evaluation(tmp_path / "run")
    assert after and after.about == before | {"time": after.about["time"]}, "a run that has ended is evaluated"
    assert shown(tmp_path / "run") == [0, 4, 10]
    (tmp_path / "run/last_checkpoint").unlink()
    (tmp_path / "run/model_final.pth").unlink()
    train(tiny_cfg)
    assert read_evaluation(folder / "0000005").about["iteration"] == 5
    (previous,) = (tmp_path / "run/previous").iterdir()
    assert read_evaluation(previous / "evaluations/0000010").about == after.about


def test_an_evaluation_says_what_it_evaluates_if_there_is_no_checkpoint(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = 2, ""
    train(tiny_cfg)
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "empty")
    default_setup(tiny_cfg, Namespace(eval_only=True, resume=True))
    with pytest.raises(UserError, match=r"No checkpoint in .*/empty belongs to its current run, and MODEL.WEIGHTS is"):
        Trainer.test_weights(tiny_cfg, resume=True)
    tiny_cfg.defrost()
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "run/model_final.pth")
    Trainer.test_weights(tiny_cfg, resume=True)
    (row,) = (json.loads(line) for line in (tmp_path / "empty/metrics_eval.json").read_text().splitlines())
    assert row["weights"] == tiny_cfg.MODEL.WEIGHTS
    assert f"current run: MODEL.WEIGHTS is loaded, {row['weights']}" in (tmp_path / "empty/log.txt").read_text()


def test_a_test_set_without_label_maps_stops_before_the_training(tiny_cfg: CfgNode) -> None:
    records = [{k: v for k, v in r.items() if k != "sem_seg_file_name"} for r in catalog.load_dataset("tiny_val")]
    catalog.register("tiny_unlabeled", lambda: records, classes=CLASSES, colors=COLORS)
    tiny_cfg.DATASETS.TEST = ("tiny_val", "tiny_unlabeled")
    with pytest.raises(UserError, match=r"0\.png has no label map, so tiny_unlabeled cannot be scored: leave it out"):
        Trainer(tiny_cfg)
    tiny_cfg.MODEL.SAVE_PSEUDO_LABELS = True
    Trainer.check_test_sets(tiny_cfg)


def test_no_weights_is_a_warning_not_a_failure(tiny_cfg: CfgNode) -> None:
    default_setup(tiny_cfg, Namespace())
    assert 0 <= Trainer.test_weights(tiny_cfg)["tiny_val"]["sem_seg"]["mIoU"] <= 100
    assert "WARNING: MODEL.WEIGHTS is empty" in (Path(tiny_cfg.OUTPUT_DIR) / "log.txt").read_text()


def test_a_non_finite_loss_stops_with_a_sentence(tiny_cfg: CfgNode) -> None:
    evaluated = []

    class Diverging(Trainer):
        def evaluate(self) -> dict:
            evaluated.append(self.iter)
            return super().evaluate()

        def run_step(self) -> None:
            if self.iter == 2:
                with torch.no_grad():
                    self.model.sem_seg_head.bias.fill_(float("nan"))
            super().run_step()

    tiny_cfg.SOLVER.IMS_PER_BATCH = 2
    with pytest.raises(NonFiniteLoss) as caught:
        train(tiny_cfg, kind=Diverging)
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, FloatingPointError)
    message = str(caught.value)
    assert message.startswith("Training stopped at iteration 2: loss_ce = nan, loss_noise = nan on ")
    assert len(re.findall(r"/tiny\d+/train/images/", message)) == 2
    assert not list(Path(tiny_cfg.OUTPUT_DIR).glob("*.pth"))
    assert evaluated == [0], "a failed run has no result"


def test_a_network_that_finds_its_output_non_finite_is_told_with_the_images(tiny_cfg: CfgNode) -> None:
    class Refusing(Trainer):
        def run_step(self) -> None:
            def refuse(batch: list) -> None:
                raise FloatingPointError("the network's output is not finite")

            self.model.forward = refuse
            super().run_step()

    with pytest.raises(NonFiniteLoss, match=r"iteration 0: the network's output is not finite on .*/train/images/"):
        train(tiny_cfg, kind=Refusing)


def test_the_step_is_clipped_as_a_whole(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SOLVER.merge_from_list(["OPTIMIZER", "SGD", "MOMENTUM", 0.0, "WEIGHT_DECAY", 0.0, "BASE_LR", 1.0])
    tiny_cfg.SOLVER.merge_from_list(["MAX_ITER", 1, "CLIP_GRADIENTS.ENABLED", True])
    tiny_cfg.TEST.EVAL_PERIOD = 0
    before: dict[str, torch.Tensor] = {}

    class Watched(Trainer):
        def run_step(self) -> None:
            before.update(weights(self))
            super().run_step()

    after = weights(train(tiny_cfg, kind=Watched))
    moved = sum((after[key] - before[key]).square().sum() for key in after)
    assert moved.sqrt().item() == pytest.approx(0.01, rel=1e-3)  # CLIP_VALUE times the learning rate


def test_an_absent_class_is_no_number_in_the_metrics(tiny_cfg: CfgNode) -> None:
    class Absent(Trainer):
        @classmethod
        def test(cls, cfg: CfgNode, model: torch.nn.Module, *, seed: int | None = None, **_: object) -> dict:
            return {"tiny_val": {"sem_seg": {"mIoU": 50.0, "IoU-rider": float("nan")}}}

    tiny_cfg.SOLVER.MAX_ITER = 1
    train(tiny_cfg, kind=Absent)
    written = (Path(tiny_cfg.OUTPUT_DIR) / "metrics.json").read_text()
    assert "tiny_val/sem_seg/mIoU" in written
    assert "rider" not in written
    assert "NaN" not in written


def test_a_missing_test_set_is_told_before_training(tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATASETS.TEST = ("tiny_val", "tiny_vel")
    tiny_cfg.TEST.EVAL_PERIOD = 0
    with pytest.raises(UserError, match="tiny_vel"):
        train(tiny_cfg)
    assert not list(Path(tiny_cfg.OUTPUT_DIR).glob("metrics.json"))


def test_two_runs_in_one_process_keep_their_logs_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("a", "b", "a"):
        (tmp_path / run).mkdir(exist_ok=True)
        start_log(tmp_path / run)
        logging.getLogger("clouds.engine").info(f"hello from {run}")
    logs = {run: (tmp_path / run / "log.txt").read_text() for run in "ab"}
    assert logs["a"].count("hello from a") == 2
    assert logs["b"].count("hello from b") == 1
    assert "hello from b" not in logs["a"]
    assert capsys.readouterr().out.count("hello from") == 3


def test_seeds_of_iterations_differ_and_repeat() -> None:
    def draw(*stream: int) -> float:
        seed_everything(*stream)
        return torch.rand(()).item()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1), draw(1, 0), draw(1, 1), draw(2, 1), draw(0, 1)}) == 5


def test_a_negative_seed_is_drawn_and_recorded(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SEED = -1
    default_setup(tiny_cfg, Namespace())
    assert tiny_cfg.SEED >= 0
    output = Path(tiny_cfg.OUTPUT_DIR)
    assert CfgNode.load_yaml_with_base(str(output / "config.yaml"))["SEED"] == tiny_cfg.SEED
    assert f"seed {tiny_cfg.SEED}," in (output / "log.txt").read_text()


def test_the_recorded_config_serves_on_another_machine(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.DEVICE = "auto"
    default_setup(tiny_cfg, Namespace())
    assert tiny_cfg.MODEL.DEVICE in ("cpu", "cuda")
    recorded = CfgNode.load_yaml_with_base(f"{tiny_cfg.OUTPUT_DIR}/config.yaml")
    assert recorded["MODEL"]["DEVICE"] == "auto"


def test_an_output_folder_that_cannot_be(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "file" / "run")
    with pytest.raises(WriteError, match=r"file/run cannot be written \(a file is in the place of its folder\): move"):
        default_setup(tiny_cfg, Namespace())
